"""What a release is made of: one version, a section of the changelog, a citation, and an archive of the sources."""

import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert citation["license"] == PROJECT["license"]
    assert citation["preferred-citation"]["url"] == PROJECT["urls"]["Paper"]
    first = re.search(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())[1]
    assert first == version


@pytest.mark.slow
def test_wheel_and_source_archive_are_whole(tmp_path):
    pytest.importorskip("build")
    pytest.importorskip("twine")
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    out = tmp_path / "dist"
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    wheel, archive = next(out.glob("*.whl")), next(out.glob("*.tar.gz"))
    checked = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel, archive], capture_output=True)
    assert checked.returncode == 0, checked.stdout.decode()
    with tarfile.open(archive) as file:
        names = {name.split("/", 1)[1] for name in file.getnames() if "/" in name}
    for needed in (
        "LICENSE",
        "modeling/modeling_livecc.py",
        "recipes/own-videos/lora.yaml",
        "examples/demo.py",
        "src/livecc_hf/serve/page/index.html",
        "src/livecc_hf/space/template/app.py",
        "src/livecc_hf/assets/livecc-tiny/model.safetensors",
        "src/livecc_hf/assets/demo/clip.mp4",
    ):
        assert needed in names, needed
