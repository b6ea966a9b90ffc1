"""Runs everything that a GPU has to show, most telling first: checks, a step by kernel, streaming, pool, training.

    python benchmarks/gpu/gpu.py --folder OUT [--minutes 9] [--stages checks step streaming pool training]

It needs what runs the model (torch, transformers, accelerate) and peft for training; pytest for the checks. Tests that
need other packages are skipped without them. Each stage is a process with its own time and writes OUT/STAGE.json as it
goes, and what it prints to OUT/STAGE.log; OUT/summary.json says how each ended. Without CUDA it says so and ends with
1; `--tiny` runs every stage in small on any device.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
ROOT = BENCHMARKS.parent
CUT_OFF = 124  # as timeout(1) says it
N_STREAMS = ("1", "4", "8", "16", "24", "32")
# Seconds that each may take; later ones have what is left.
STAGES = {"checks": 110, "step": 90, "streaming": 140, "pool": 200, "training": 120}


def commands(stages: list[str], folder: Path, is_tiny: bool) -> dict[str, list[str]]:
    """Return what runs each stage."""
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text()]
    if is_tiny:
        tests = [path for path in tests if path.name == "test_split_attention.py"]
    pytest = ["-m", "pytest", "-m", "gpu", "-q", "-rs", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    scripts = {
        "checks": [*pytest, f"--junitxml={folder / 'checks.xml'}", *map(str, sorted(tests))],
        "step": [str(BENCHMARKS / "gpu/decode_step.py")],
        "streaming": [str(BENCHMARKS / "streaming/streaming.py"), "--models", "livecc-7b"],
        "pool": [str(BENCHMARKS / "streaming/pool.py"), "--streams", *N_STREAMS, "--alone-up-to", "8"],
        "training": [str(BENCHMARKS / "gpu/training_gpu.py"), "--methods", "lora"],
    }
    if find_spec("bitsandbytes") is not None:
        scripts["training"].append("qlora")
    scripts["training"] += ["--steps", "1"] if is_tiny else ["--tokens", "8192"]
    scripts["pool"] += ["--turns", "6", "--live-s", "10", "--live-streams", "24", "32"]
    for name, script in scripts.items():
        if name != "checks":
            script += ["--output", str(folder / f"{name}.json"), *(["--small"] if is_tiny else [])]
    return {name: [sys.executable, *scripts[name]] for name in stages}


def run(name: str, command: list[str], folder: Path, limit_s: float) -> dict[str, float | int]:
    """Run a stage for no longer than a limit; return how it ended and what it took."""
    began_s = time.monotonic()
    with (folder / f"{name}.log").open("w") as log:
        # A session of its own: what a stage has started ends with it.
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=_environment(), start_new_session=True
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


def _environment() -> dict[str, str]:
    """Return the environment of stages: without the network, and what is printed is written at once."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def main(argv: list[str] | None = None) -> int:
    """Run the stages; 1 if one fails, misses a target or is cut off."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--folder", type=Path, required=True, help="where results go")
    made.add_argument("--minutes", type=float, default=9.0, help="most time for all")
    made.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    made.add_argument("--tiny", action="store_true", help="each stage in small, on any device")
    arguments = made.parse_args(argv)
    import torch

    if not torch.cuda.is_available() and not arguments.tiny:
        print("no CUDA device is available: this is for one; --tiny runs the same stages in small")
        return 1
    folder, began_s, summary = arguments.folder.resolve(), time.monotonic(), {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, command in commands(arguments.stages, folder, arguments.tiny).items():
        left_s = 60 * arguments.minutes - (time.monotonic() - began_s)
        if left_s <= 0:
            summary[name] = {"exit_code": CUT_OFF, "took_s": 0.0}
        else:
            summary[name] = run(name, command, folder, min(STAGES[name], left_s))
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        last = ((folder / f"{name}.log").read_text().splitlines() or [""])[-1] if left_s > 0 else "no time left"
        print(f"{name}: {summary[name]} {last}", flush=True)
    return int(any(stage["exit_code"] for stage in summary.values()))


if __name__ == "__main__":
    sys.exit(main())
