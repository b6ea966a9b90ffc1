"""`livecc data push` against a server on this machine that implements the Hub's commit API."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from hub_server import Repository, serve_hub
from media import write_video

N_SHARDS = 260  # more files than huggingface_hub puts into a commit


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "run" / "dataset"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Clips\n")
    rows = {"id": ["a"], "video": ["https://a.example/1.mp4"], "words": [[{"start": 0.0, "end": 1.0, "word": "goal"}]]}
    pq.write_table(pa.table(rows), folder / "data" / "train-00000.parquet")
    for number in range(1, N_SHARDS):
        pq.write_table(pa.table(rows | {"id": [str(number)]}), folder / "data" / f"train-{number:05d}.parquet")
    (folder / ".hidden").write_text("mine")
    return folder


def push(folder: Path, url: str, home: Path, *options: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_none", "HF_HOME": str(home)}
    command = [sys.executable, "-m", "livecc_hf.cli.main", "data", "push", str(folder), "me/clips", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_push_commits_in_parts_and_goes_on_where_it_stopped(folder, tmp_path):
    local = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    del local[".hidden"]
    with serve_hub() as hub:
        hub.refused = {1}
        first = push(folder.parent, hub.url, tmp_path / "home")  # the run's folder holds the dataset's
        assert first.returncode != 0 and "storage limit reached" in first.stderr
        repository = hub.repositories["datasets/me/clips"]
        assert repository.visibility == "private"
        assert len(repository.commits) == 1 and 0 < repository.commits[0] < len(local)
        repository.sent.clear()
        again = push(folder.parent, hub.url, tmp_path / "home")
        assert again.returncode == 0, again.stderr
        assert again.stdout.strip() == f"{hub.url}/datasets/me/clips"
        assert repository.files == local
        # What was there is not sent.
        assert len(repository.sent) == sum(repository.commits[1:]) == len(local) - repository.commits[0]


def test_only_the_dataset_and_what_is_a_video_are_sent(folder, tmp_path):
    for number in range(1, N_SHARDS):
        (folder / "data" / f"train-{number:05d}.parquet").unlink()
    (folder / "videos" / "deep").mkdir(parents=True)
    write_video(folder / "videos" / "deep" / "a [1]*.mp4", n_frames=3)
    write_video(tmp_path / "elsewhere.mp4", n_frames=3)
    (folder / "videos" / "link.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    (tmp_path / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    (folder / "videos" / "key.mp4").symlink_to(tmp_path / "key")
    (folder / "videos" / "note [2]*.txt").write_text("mine")
    (folder / "my-notes.txt").write_text("mine")
    (folder / "conversations.jsonl").write_text("[]\n")
    with serve_hub() as hub:
        done = push(folder, hub.url, tmp_path / "home")
        assert done.returncode == 0, done.stderr
        sent = {
            "README.md",
            "conversations.jsonl",
            "data/train-00000.parquet",
            "videos/deep/a [1]*.mp4",
            "videos/link.mp4",
        }
        assert set(hub.repositories["datasets/me/clips"].files) == sent
    assert done.stderr.startswith(f"checking the files of {folder}\n")
    assert f"3 files of {folder} are left out, such as my-notes.txt: it is not part of a dataset" in done.stderr


def test_a_hub_that_does_not_answer_is_named(folder, tmp_path):
    with serve_hub() as hub:
        url = hub.url  # nobody listens there afterwards
    failed = push(folder, url, tmp_path / "home")
    assert failed.returncode == 2
    assert f"the Hub at {url} cannot be reached" in failed.stderr and "run the same command again" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_public_dataset_is_pushed_to_only_if_that_is_said(folder, tmp_path):
    with serve_hub() as hub:
        repository = hub.repositories["datasets/me/clips"] = Repository({"visibility": "public"})
        refused = push(folder, hub.url, tmp_path / "home")
        assert (refused.returncode, repository.sent) == (2, [])
        assert "dataset me/clips is public, and so would be the files" in refused.stderr
        done = push(folder, hub.url, tmp_path / "home", "--public", "--revision", "dev")
        assert done.returncode == 0, done.stderr
        assert repository.trees[repository.refs["dev"]] and not repository.files
