"""The notebook's cells run one after the other, as in a notebook, in a folder of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "livecc_tiny.ipynb"
CELLS = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_it_is_kept_without_outputs_and_its_cells_are_python():
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert not cell.get("outputs")
    for number, cell in enumerate(CELLS):
        compile(cell, f"cell {number}", "exec")


@pytest.mark.slow
def test_it_comments_and_fine_tunes(tmp_path):
    pytest.importorskip("trl")
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join(CELLS) + "\nassert any(s.text for s in segments) and after\n")
    env = os.environ | {"LIVECC_STEPS": "2", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Purple ball moves." in done.stdout
    assert (tmp_path / "runs/own-videos/tiny-cpu").is_dir()
