"""New folders are written whole, or not at all."""

import os
import signal
import subprocess
import sys

import pytest

from livecc_hf.utils.output_folder import new_folder


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=str)
def test_a_failure_leaves_the_place_as_it_was(tmp_path, failure, is_there):
    out = tmp_path / "deep/out"
    if is_there:
        out.mkdir(parents=True)
    with pytest.raises(type(failure)), new_folder(out) as folder:
        (folder / "config.json").write_text("{}")
        (folder / "code").mkdir()
        (folder / "code/a.py").touch()
        raise failure
    assert [*(tmp_path / "deep").rglob("*")] == ([out] if is_there else [])
    with new_folder(out) as folder:
        (folder / "config.json").write_text("again")
    assert [path.name for path in (tmp_path / "deep").rglob("*")] == ["out", "config.json"]


def test_a_killed_process_leaves_the_name_free(tmp_path):
    out = tmp_path / "out"
    script = (
        "import os, signal, sys; from pathlib import Path; from livecc_hf.utils.output_folder import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(out)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL and not out.exists()
    with new_folder(out) as folder:
        (folder / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]


def test_the_working_directory_may_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with new_folder(tmp_path.relative_to(tmp_path)) as folder:
        (folder / "whole").touch()
    assert (tmp_path / "whole").exists()
    with pytest.raises(ValueError, match="exists and is not an empty folder"), new_folder(tmp_path):
        pass
