"""Child processes end when their parent is killed, whatever they are doing."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT_S = 120
# Holds the GIL, so that no thread of the process can run.
_BUSY = """
import ctypes, os, sys, time
from pathlib import Path
def hang(index=0):
    path = Path(sys.argv[1]) / "pids" / str(os.getpid())
    path.parent.mkdir(exist_ok=True)
    path.touch()
    ctypes.PyDLL(None).sleep(600) if sys.platform == "linux" else time.sleep(600)
"""
_PARENTS = {
    "data worker": """
from livecc_hf.production.execution.workers import Worker
if __name__ == "__main__":
    Worker().run(hang)
""",
    "token counting": """
from livecc_hf.data.batches.packing import CHUNK_SAMPLES, token_counts
if __name__ == "__main__":
    token_counts(4 * CHUNK_SAMPLES, hang, Path(sys.argv[1]) / "lengths.npy", 2, progress=False, start_method="fork")
""",
    "batch loading": """
from types import SimpleNamespace
from torch.utils.data import DataLoader
from livecc_hf.data.batches.loader import BatchLoader
class Slow(BatchLoader):
    def __init__(self):
        self.packs = [[0], [1]]
    def _row(self, numbers, skipped):
        hang()
if __name__ == "__main__":
    next(iter(DataLoader([{"row": 0}, {"row": 1}], num_workers=2, collate_fn=Slow())))
""",
}
_N_PROCESSES = {"data worker": 1, "token counting": 2, "batch loading": 2}
_KINDS = ["data worker", "token counting", pytest.param("batch loading", marks=pytest.mark.slow)]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def kill_at_work(command, folder: Path, n_processes: int) -> list[int]:
    """Kill a command while its child processes work; return these processes."""
    pids = folder / "pids"
    deadline_s = time.monotonic() + LIMIT_S
    errors = folder / "errors.txt"
    with errors.open("w") as file, subprocess.Popen(command, stderr=file, stdout=subprocess.DEVNULL) as parent:
        try:
            while len(children := list(pids.glob("*")) if pids.is_dir() else []) < n_processes:
                assert parent.poll() is None and time.monotonic() < deadline_s, errors.read_text()
                time.sleep(0.05)
            found = [int(path.name) for path in children]
            assert all(map(is_alive, found)) and parent.pid not in found
        finally:
            parent.kill()
    return found


def assert_they_end(pids: list[int]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline_s, "it outlived its parent"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="reads /proc")
@pytest.mark.parametrize(
    "kind", ["data worker", "token counting", pytest.param("batch loading", marks=pytest.mark.slow)]
)
def test_a_child_that_holds_the_lock_ends_with_a_killed_parent(kind, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(_BUSY + _PARENTS[kind])
    assert_they_end(kill_at_work([sys.executable, script, tmp_path], tmp_path, _N_PROCESSES[kind]))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="reads /proc")
def test_the_process_that_checks_a_push_ends_with_a_killed_parent(tmp_path):
    code = tmp_path / "repo" / "custom_generate" / "generate.py"
    code.parent.mkdir(parents=True)
    pids = tmp_path / "pids"
    pids.mkdir()
    code.write_text(
        "import os, pathlib, time\n"
        f"(pathlib.Path({str(pids)!r}) / str(os.getpid())).touch()\n"
        "time.sleep(600)\n"
        "def generate(model, **options): ...\n"
    )
    load = f"from livecc_hf.publishing.fresh import load_fresh; load_fresh({json.dumps(str(code.parents[1]))}, "
    command = [sys.executable, "-c", load + '"generation code")']
    assert_they_end(kill_at_work(command, tmp_path, 1))
