"""A Space is pushed to a local Hub server: created, sent again, as a pull request, and refused."""

import subprocess
import sys
from pathlib import Path

import pytest

for _folder in (Path(__file__).parent, Path(__file__).parents[1]):
    sys.path.insert(0, str(_folder))
from hub_client import livecc
from hub_server import READ_TOKEN, Repository, serve_hub

CARD = "---\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\nmodels: [me/tiny]\n---\n# A demo\n"


@pytest.fixture
def space(tmp_path) -> Path:
    folder = tmp_path / "space"
    (folder / "page").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "app.py").write_text("print('hello')\n")
    (folder / "requirements.txt").write_text("gradio\n")
    (folder / "page" / "index.html").write_text("<html></html>")
    (folder / ".env").write_text("HF_TOKEN=secret")
    (folder / "weights.pt").write_bytes(b"pickle")
    return folder


@pytest.fixture
def hub():
    with serve_hub() as hub:
        yield hub


SENT = {"README.md", "app.py", "requirements.txt", "page/index.html"}


def test_a_new_space_is_private_and_an_unchanged_one_is_not_sent_again(space, hub, tmp_path):
    first = livecc(hub.url, tmp_path / "home", "push", space, "me/demo", "--message", "First")
    assert first.returncode == 0, first.stderr
    repository = hub.repositories["spaces/me/demo"]
    assert (repository.visibility, repository.made["sdk"]) == ("private", "gradio")
    assert set(repository.files) == SENT
    assert repository.messages == ["First"]
    assert first.stdout == f"{hub.url}/spaces/me/demo {repository.refs['main']}\n"
    assert "not sent: .env (it is hidden)" in first.stderr
    assert "not sent: weights.pt (it is a pickle" in first.stderr
    assert f"verified at {repository.refs['main']}: 4 files" in first.stderr
    again = livecc(hub.url, tmp_path / "home", "push", space, "me/demo")
    assert again.returncode == 0, again.stderr
    assert "nothing was sent" in again.stderr
    assert again.stdout == first.stdout
    assert len(repository.sent) == len(SENT)


@pytest.mark.parametrize("xet", [None, "1"], ids=["pipelined", "one commit"])
def test_a_pull_request_leaves_main_alone(space, hub, tmp_path, xet):
    repository = hub.repositories["spaces/me/demo"] = Repository({"visibility": "private", "sdk": "gradio"})
    before = repository.refs["main"]
    done = livecc(hub.url, tmp_path / "home", "push", space, "me/demo", "--pr", HF_HUB_DISABLE_XET=xet)
    assert done.returncode == 0, done.stderr
    assert repository.refs["main"] == before
    assert set(repository.trees[repository.refs["refs/pr/1"]]) == SENT
    assert "/discussions/1" in done.stderr
    assert "verified at refs/pr/1: 4 files" in done.stderr


def test_a_branch_is_created(space, hub, tmp_path):
    done = livecc(hub.url, tmp_path / "home", "push", space, "me/demo", "--revision", "dev", "--public")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["spaces/me/demo"]
    assert set(repository.trees[repository.refs["dev"]]) == SENT
    assert not repository.files
    assert repository.visibility == "public"


REFUSALS = {
    "no token": ({"HF_TOKEN": None}, "me/demo", "there is no token for the Hub: log in with `hf auth login`"),
    "read token": ({"HF_TOKEN": READ_TOKEN}, "me/demo", "the Hub does not let you write to space me/demo"),
    "not mine": ({}, "you/demo", "does not let you write to space you/demo (You don't have the rights to create"),
    "offline": ({"HF_HUB_OFFLINE": "1"}, "me/demo", "HF_HUB_OFFLINE is set: unset it to push to the Hub"),
    "is public": ({}, "me/public", "space me/public is public, and so would be the files: give --public"),
    "no such": ({}, "me/none --pr", "space me/none does not exist, or your token cannot read it, so no pull"),
    "no ref": ({}, "me/mine --revision refs/pr/7", "space me/mine has no revision refs/pr/7: give a branch, or"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_of_the_hub_are_clear_errors(space, hub, tmp_path, case):
    changes, words, message = REFUSALS[case]
    hub.repositories["spaces/me/public"] = Repository({"visibility": "public"})
    hub.repositories["spaces/me/mine"] = Repository({"visibility": "private"})
    done = livecc(hub.url, tmp_path / "home", "push", space, *words.split(), **changes)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not any(repository.sent for repository in hub.repositories.values())


def test_an_unreachable_hub_is_named(space, tmp_path):
    with serve_hub() as hub:
        url = hub.url  # the server is stopped afterwards
    done = livecc(url, tmp_path / "home", "push", space, "me/demo")
    assert done.returncode == 2
    assert f"the Hub at {url} cannot be reached" in done.stderr
    assert "run the same command again to continue" in done.stderr


def test_a_dry_run_does_not_use_the_network(space, hub, tmp_path):
    done = livecc(hub.url, tmp_path / "home", "push", space, "me/demo", "--dry-run", HF_TOKEN=None)
    assert done.returncode == 0, done.stderr
    assert "(space) -> space me/demo, main" in done.stdout
    assert "requirements.txt" in done.stdout
    assert not hub.requests


def test_pushing_a_space_does_not_import_torch(space):
    code = (
        "import sys; from livecc_hf.cli.main import main; code = main(sys.argv[1:])\n"
        "sys.exit(code or ', '.join({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", code, "push", str(space), "me/demo", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nothing was uploaded" in done.stdout
