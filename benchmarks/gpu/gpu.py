"""Runs all GPU checks and benchmarks, most important first: checks, decode steps, streaming, pool, training.

    python benchmarks/gpu/gpu.py --folder OUT [--minutes 9] [--stages checks step streaming pool training]

Needs torch, transformers and accelerate; pytest for the checks, peft for training. Tests that need other
packages are skipped without them. Each stage is a process with a time limit; it writes OUT/STAGE.json while it runs and
its output to OUT/STAGE.log. OUT/summary.json has the exit codes. Without CUDA it exits with 1; `--small` runs every
stage in small on any device.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import ROOT, Measured, Run, benchmark, holds

CUT_OFF = 124  # as timeout(1)
# Stage -> seconds at most; less if little time is left.
STAGES = {"checks": 110, "step": 90, "streaming": 140, "pool": 200, "training": 120}
# Stage -> script, options of a full run, options of a small run.
COMMANDS = {
    "step": ("gpu/decode_step.py", "", ""),
    "streaming": ("streaming/streaming.py", "--models livecc-7b", "--models livecc-7b"),
    "pool": ("streaming/pool.py", "--streams 1 4 8 16 24 32 --turns 6 --live-s 10", ""),
    "training": ("gpu/training_gpu.py", "--tokens 8192", "--steps 1"),
}


def commands(stages: Sequence[str], folder: Path, is_small: bool) -> dict[str, list[str]]:
    """Return the command of each stage."""
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text()]
    if is_small:
        tests = [path for path in tests if path.name == "test_split_attention.py"]
    pytest = ["-m", "pytest", "-m", "gpu", "-q", "-rs", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    found = {"checks": [*pytest, f"--junitxml={folder / 'checks.xml'}", *map(str, sorted(tests))]}
    for name, (script, *options) in COMMANDS.items():
        output = ["--output", str(folder / f"{name}.json"), *(["--small"] if is_small else [])]
        found[name] = [str(ROOT / "benchmarks" / script), *options[is_small].split(), *output]
    return {name: [sys.executable, *found[name]] for name in stages}


def run_stage(name: str, command: list[str], folder: Path, limit_s: float) -> dict[str, float | int]:
    """Run a stage within a time limit; return its exit code and seconds."""
    began_s = time.monotonic()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    with (folder / f"{name}.log").open("w") as log:
        if limit_s <= 0:
            return {"exit_code": CUT_OFF, "took_s": 0.0}
        # In its own session, so that processes started by the stage can be killed with it.
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = CUT_OFF
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return {"exit_code": code, "took_s": round(time.monotonic() - began_s, 1)}


@benchmark("gpu.json", on_cuda=True)
def main(
    run: Run,
    folder: Annotated[Path, "folder of the results"] = Path("runs/gpu"),
    minutes: Annotated[float, "time limit of all stages"] = 9.0,
    stages: Annotated[tuple[str, ...], "stages to run", STAGES] = tuple(STAGES),
) -> Measured:
    """Run the stages."""
    folder, end_s, ended = folder.resolve(), time.monotonic() + 60 * minutes, {}
    folder.mkdir(parents=True, exist_ok=True)
    run.output = run.output or folder / "summary.json"
    for name, command in commands(stages, folder, run.is_small).items():
        ended[name] = run_stage(name, command, folder, min(STAGES[name], end_s - time.monotonic()))
        last = ((folder / f"{name}.log").read_text().splitlines() or [""])[-1]
        run.tell(f"{name}: {ended[name]} {last}", {"stages": ended})
    return {"stages": ended}, [holds(f"{name} ends well", stage["exit_code"] == 0) for name, stage in ended.items()]
