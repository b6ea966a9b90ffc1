"""Two processes train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from livecc_hf.training.script import main


def losses(folder) -> list[float]:
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def run_on_two(arguments: list[str]) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "livecc_hf.training.script", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr.decode()[-3000:]


PACKED = {"packing": True, "max_length": 400, "train_parts": ["language_model"]}


@pytest.mark.parametrize("changes", [{}, pytest.param(PACKED, marks=pytest.mark.slow)])
def test_the_losses_are_those_of_one_process(recipe, tmp_path, changes):
    entries = [
        {"source": "tiny", "task": "list", "length": [1, 2], "samples": 32, "group": 3},
        {"source": "jsonl", "path": str(tmp_path / "chats.jsonl")},
    ]
    chats = [
        [{"role": "user", "content": f"Ball {i}?"}, {"role": "assistant", "content": "Red ball."}] for i in range(8)
    ]
    broken = [{"role": "user", "content": [{"type": "image", "image": "no.png"}]}, chats[0][1]]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*chats, broken]))
    path = recipe(
        data=entries,
        optimizer="trainer",
        max_steps=4,
        save_strategy="steps",
        save_steps=4,
        train_sampling_strategy="random",
        **changes,
    )
    held_out = {"eval_data": [{"source": "tiny", "task": "list", "length": [1, 2], "samples": 3, "group": 1}]}
    measured = {"eval_strategy": "steps", "eval_steps": 4, "per_device_eval_batch_size": 2, "commentary_clips": 0}
    recipe_keys = yaml.safe_load(Path(path).read_text())
    Path(path).write_text(yaml.safe_dump(recipe_keys | held_out | measured))
    main(["--config", path, f"output_dir={tmp_path / 'one'}"])
    run_on_two(["--config", path, f"output_dir={tmp_path / 'two'}", "per_device_train_batch_size=2"])
    evaluated = [
        json.loads((tmp_path / name / "checkpoint-4/trainer_state.json").read_text())["log_history"][-1]
        for name in ("one", "two")
    ]
    for key in ("eval_loss", "eval_loss_per_word"):  # three samples on two processes: no sample counts twice
        assert evaluated[0][key] == pytest.approx(evaluated[1][key], abs=1e-3)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 4
    assert two == pytest.approx(one, abs=1e-4)
    states = [json.loads((tmp_path / name / "checkpoint-4/livecc_run.json").read_text()) for name in ("one", "two")]
    assert states[0]["skipped"] == states[1]["skipped"]
