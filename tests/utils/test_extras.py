"""In an environment without extras, missing packages are reported in one line with the install command."""

import importlib.metadata
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from bare import ROOT, make_bare_site, run_bare
from packaging.requirements import Requirement

from livecc_hf.assets import bundled_model_path, demo_clip_path
from livecc_hf.utils import extras
from livecc_hf.utils.extras import MODULES, MissingExtraError, install_command, require_extra

DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return make_bare_site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def installed_from(tmp_path, monkeypatch):
    """A function that makes this package look installed from a place, by pip's own record."""

    def record(**origin):
        info = tmp_path / "site" / "livecc_hf-9.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: livecc-hf\nVersion: 9\n")
        if origin:
            (info / "direct_url.json").write_text(json.dumps(origin))
        monkeypatch.syspath_prepend(info.parent)
        bin = tmp_path / "bin"
        bin.mkdir()
        (bin / "pip").write_text("#!/bin/sh\n")
        (bin / "pip").chmod(0o755)
        monkeypatch.setenv("PATH", str(bin))
        monkeypatch.setattr(sys, "executable", str(bin / "python"))

    return record


def test_the_modules_are_those_of_pyproject():
    of_distribution = {}
    for module, names in importlib.metadata.packages_distributions().items():
        for name in names:
            of_distribution.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(module)
    for extra, modules in MODULES.items():
        names = [re.sub(r"[-_.]+", "-", Requirement(text).name).lower() for text in DECLARED[extra]]
        brought = set().union(*(of_distribution.get(name, {name.replace("-", "_")}) for name in names))
        assert set(modules) <= brought, extra
    assert set(MODULES) == set(DECLARED) - {"dev"}


class TestInstallCommand:
    def test_from_a_clone(self, installed_from, tmp_path):
        clone = tmp_path / "a clone"
        clone.mkdir()
        installed_from(url=clone.as_uri(), dir_info={"editable": True})
        assert install_command("train") == f'pip install "{clone}[train]"'

    def test_from_a_clone_that_is_gone(self, installed_from, tmp_path):
        installed_from(url=(tmp_path / "gone").as_uri(), dir_info={})
        assert install_command("serve", "ray") == 'pip install ".[serve,ray]", in a clone of livecc-hf'

    def test_from_an_address(self, installed_from):
        installed_from(url="https://host/livecc-hf.git", vcs_info={"vcs": "git", "commit_id": "1"})
        assert install_command("data") == 'pip install "livecc-hf[data] @ git+https://host/livecc-hf.git"'

    def test_from_a_clone_that_was_built_in(self, installed_from, tmp_path, monkeypatch):
        """A build's metadata in the clone comes first if the clone is on the path, but has no origin."""
        left = tmp_path / "clone/livecc_hf.egg-info"
        left.mkdir(parents=True)
        (left / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: livecc-hf\nVersion: 9\n")
        installed_from(url=left.parent.as_uri(), dir_info={"editable": True})
        monkeypatch.syspath_prepend(left.parent)
        assert install_command("train") == f'pip install "{left.parent}[train]"'

    def test_from_a_package_index(self, installed_from):
        installed_from()
        assert install_command("data") == 'pip install "livecc-hf[data]"'

    def test_where_another_pip_comes_first(self, installed_from, monkeypatch, tmp_path):
        installed_from()
        monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/bin/python"))
        assert install_command("data") == f'{tmp_path}/venv/bin/python -m pip install "livecc-hf[data]"'

    def test_of_a_source_tree(self, monkeypatch):
        monkeypatch.setattr(extras, "distributions", lambda name: [])
        assert f'"{ROOT}[data]"' in install_command("data")


def test_installed_modules_are_not_reported():
    require_extra("data", "this test", "json", "pytest")
    with pytest.raises(MissingExtraError, match=r"^this test needs no_such_module, no_parent.child: .*\[data\]"):
        require_extra("data", "this test", "json", "no_such_module", "no_parent.child")


COMMANDS = {
    "train --config recipe.yaml": ("train", "trl, peft, datasets, qwen_vl_utils, langcodes"),
    "serve": ("serve", "fastapi, uvicorn, websockets, prometheus_client"),
    "data build --input videos --out out": ("data", "datasets, matplotlib"),
    "data push folder me/clips": ("data", "datasets"),
    "data fetch urls.txt videos": ("fetch", "yt_dlp, langcodes"),
    "merge adapter out": ("train", "peft"),
    "commentate CLIP --model adapter": ("train", "peft"),
    "commentate CLIP --load-in-4bit": ("quantize", "bitsandbytes"),
}


_RUN_ALL = """
import contextlib, io, json, sys
from livecc_hf.cli.main import main
for argv in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(argv)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture(scope="module")
def answers(bare, tmp_path_factory):
    """The output without extras of each command of `COMMANDS`, and of one that needs no extra."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(ROOT / "recipes/own-videos/tiny-cpu.yaml", folder / "recipe.yaml")
    (folder / "urls.txt").write_text("https://host/video\n")
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(bundled_model_path()), "peft_type": "LORA"})
    )
    commands = [*COMMANDS, "commentate CLIP --end 6 --greedy"]
    argvs = [command.replace("CLIP", str(demo_clip_path())).split(" ") for command in commands]
    done = run_bare(bare, "-c", _RUN_ALL, cwd=folder, input=json.dumps(argvs))
    assert done.returncode == 0, done.stderr
    return dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_the_extra_it_needs(command, answers):
    extra, modules = COMMANDS[command]
    code, out, err = answers[command]
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert re.fullmatch(rf"livecc: error: .+ needs {modules}: \S+( -m pip)? install \"{ROOT}\[{extra}\]\"", last), last


def test_comments_without_extras(answers):
    code, out, err = answers["commentate CLIP --end 6 --greedy"]
    assert code == 0, err
    assert "Purple ball" in out


@pytest.mark.parametrize(
    ("code", "module", "extra"),
    [
        ("from livecc_hf.production.execution.ray import RayEngine; RayEngine(None)", "ray", "ray"),
        ("from livecc_hf.production.stages.language import Language; Language().load()", "gcld3", "data"),
        ("from livecc_hf.production.stages.asr import Asr; Asr().load()", "faster_whisper", "data"),
        (
            "from livecc_hf.endpoints.chat import ChatEndpoint; ChatEndpoint('http://a', 'm', {})",
            "httpx2",
            "data",
        ),
        ("from livecc_hf.production.build import _check_early as check; check(options, [])", "matplotlib", "data"),
    ],
)
def test_every_part_names_the_extra_it_needs(code, module, extra, monkeypatch):
    pytest.importorskip("pyarrow")
    from livecc_hf.production.options import BuildOptions

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"needs {module}: .*\[{extra}\]"):
        exec(code, {"options": BuildOptions(input="a", out="b", stages={"probe": {}})})


def test_no_text_names_a_package_that_is_not_published():
    """The package is on no package index; only `livecc_hf.utils.extras` knows how it is installed."""
    for folder in ("src", "docs", "recipes", "examples", "modeling"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".yaml", ".sh") and path.name != "extras.py":
                assert "livecc-hf[" not in path.read_text(encoding="utf-8"), path
    assert "livecc-hf[" not in (ROOT / "README.md").read_text(encoding="utf-8")


def test_pip_is_named_by_path_where_it_is_not_the_shells(monkeypatch):
    found = shutil.which("pip")
    command = install_command("train").split(" install ")[0]
    is_ours = found is not None and Path(found).parent.resolve() == Path(sys.executable).parent.resolve()
    assert command == ("pip" if is_ours else f"{sys.executable} -m pip")
