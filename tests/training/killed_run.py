"""Runs `livecc train` and kills itself with SIGKILL while writing a checkpoint.

    python killed_run.py STAGE NTH TRAIN_ARGUMENT ...

The process dies while it writes STAGE for the NTH time, and leaves a half-written file.
"""

import os
import signal
import sys
from pathlib import Path

from transformers import TrainerState

from livecc_hf.training import trainer as trainer_module
from livecc_hf.training.script import main
from livecc_hf.training.trainer import LiveCCTrainer

# stage: where the writing function is, and the file in the checkpoint that it writes
STAGES = {
    "weights": (LiveCCTrainer, "save_model", "*.safetensors"),
    "optimizer": (LiveCCTrainer, "_save_optimizer_and_scheduler", "optimizer.pt"),
    "rng": (LiveCCTrainer, "_save_rng_state", "rng_state.pth"),
    "trainer state": (TrainerState, "save_to_json", "trainer_state.json"),
    "mark": (trainer_module, "write_run_state", None),
    "rotation": (trainer_module, "rotate_checkpoints", None),
}


def die_while(stage: str, nth: int) -> None:
    """Replaces the stage's function by one that dies in its nth call."""
    owner, name, written = STAGES[stage]
    original = getattr(owner, name)
    calls = 0

    def dying(*args, **keywords):
        nonlocal calls
        calls += 1
        if calls < nth:
            return original(*args, **keywords)
        if written is not None:
            original(*args, **keywords)
            folder = max(Path(os.environ["RUN_FOLDER"]).glob("checkpoint-*"), key=lambda path: path.stat().st_mtime_ns)
            for file in folder.glob(written):
                os.truncate(file, file.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, dying)


if __name__ == "__main__":
    die_while(sys.argv[1], int(sys.argv[2]))
    main(sys.argv[3:])
