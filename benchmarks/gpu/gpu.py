"""Runs everything that a GPU has to show, most telling first: checks, a step by kernel, streaming, pool, training.

    python benchmarks/gpu/gpu.py --folder OUT [--minutes 9] [--stages checks step streaming pool training]

It needs what runs the model (torch, transformers, accelerate) and peft for training; pytest for the checks. Tests that
need other packages are skipped without them. Each stage is a process with its own time and writes OUT/STAGE.json as it
goes, and what it prints to OUT/STAGE.log; OUT/summary.json says how each ended. Without CUDA it says so and ends with
1; `--small` runs every stage in small on any device.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import ROOT, Measured, Run, benchmark, holds

BENCHMARKS = ROOT / "benchmarks"
CUT_OFF = 124  # as timeout(1) says it
N_STREAMS = "1 4 8 16 24 32"
# Seconds that each may take; later ones have what is left.
STAGES = {"checks": 110, "step": 90, "streaming": 140, "pool": 200, "training": 120}


def commands(stages: list[str], folder: Path, is_small: bool) -> dict[str, list[str]]:
    """Return what runs each stage."""
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text()]
    if is_small:
        tests = [path for path in tests if path.name == "test_split_attention.py"]
    pytest = ["-m", "pytest", "-m", "gpu", "-q", "-rs", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    pool = f"--streams {N_STREAMS} --alone-up-to 8 --turns 6 --live-s 10 --live-streams 24 32"
    options = {
        "step": "gpu/decode_step.py",
        "streaming": "streaming/streaming.py --models livecc-7b",
        "pool": f"streaming/pool.py {'' if is_small else pool}",
        "training": f"gpu/training_gpu.py {'--steps 1' if is_small else '--tokens 8192'}",
    }
    found = {"checks": [*pytest, f"--junitxml={folder / 'checks.xml'}", *map(str, sorted(tests))]}
    for name, line in options.items():
        script, *given = line.split()
        output = ["--output", str(folder / f"{name}.json"), *(["--small"] if is_small else [])]
        found[name] = [str(BENCHMARKS / script), *given, *output]
    return {name: [sys.executable, *found[name]] for name in stages}


def run_stage(name: str, command: list[str], folder: Path, limit_s: float) -> dict[str, float | int]:
    """Run a stage for no longer than a limit; return how it ended and what it took."""
    began_s = time.monotonic()
    # Without the network, and what is printed is written at once.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    with (folder / f"{name}.log").open("w") as log:
        if limit_s <= 0:
            return {"exit_code": CUT_OFF, "took_s": 0.0}
        # A session of its own: what a stage has started ends with it.
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
    folder: Annotated[Path, "where results go"] = Path("runs/gpu"),
    minutes: Annotated[float, "most time for all"] = 9.0,
    stages: Annotated[list[str], "which", STAGES] = tuple(STAGES),
) -> Measured:
    """Run the stages."""
    folder, began_s, ended = folder.resolve(), time.monotonic(), {}
    folder.mkdir(parents=True, exist_ok=True)
    run.output = run.output or folder / "summary.json"
    for name, command in commands(stages, folder, run.is_small).items():
        left_s = 60 * minutes - (time.monotonic() - began_s)
        ended[name] = run_stage(name, command, folder, min(STAGES[name], left_s))
        run.keep({"stages": ended})
        last = ((folder / f"{name}.log").read_text().splitlines() or [""])[-1]
        print(f"{name}: {ended[name]} {last}", flush=True)
    return {"stages": ended}, [holds(f"{name} ends well", stage["exit_code"] == 0) for name, stage in ended.items()]


if __name__ == "__main__":
    sys.exit(main())
