"""Running out of memory, for real."""

import subprocess
import sys

import pytest

from livecc_hf.training.memory import TrainingMemoryError, explain_memory_errors
from livecc_hf.training.options.recipe import parse

SMALL_ROOM = """
import resource, sys
import torch
from livecc_hf.training import setup, trainer  # import before limiting memory, since imports need memory, too
from livecc_hf.training.script import main
torch.ones(64, 64) @ torch.ones(64, 64)

original = trainer.LiveCCTrainer.train
def train(self, *args, **keywords):
    in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 100_000_000, -1))
    return original(self, *args, **keywords)
trainer.LiveCCTrainer.train = train
from livecc_hf.cli.main import main as livecc
sys.exit(livecc(["train", *sys.argv[1:]]))
"""


def test_the_error_is_one_line_that_names_the_knobs(recipe):
    entry = {"source": "tiny", "length": [30, 30], "samples": 16}
    path = recipe(data=[entry], per_device_train_batch_size=16, optimizer="trainer")
    result = subprocess.run(
        [sys.executable, "-c", SMALL_ROOM, "--config", path], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2, result.stderr[-2000:]
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("livecc: error: out of memory")
    for knob in (
        "per_device_train_batch_size=16",
        "activation_checkpointing=true",
        "max_length",
        "use_peft",
        "bfloat16",
    ):
        assert knob in last


def test_other_errors_pass(recipe):
    with pytest.raises(RuntimeError, match="^shapes differ$"), explain_memory_errors(parse(["--config", recipe()])):
        raise RuntimeError("shapes differ")


def test_adapters_on_a_quantised_base_have_no_such_knobs_left(recipe):
    parsed = parse(
        ["--config", recipe(optimizer="trainer", use_peft=True, load_in_4bit=True, activation_checkpointing=True)]
    )
    with pytest.raises(TrainingMemoryError) as caught, explain_memory_errors(parsed):
        raise MemoryError
    assert "use_peft" not in str(caught.value)
    assert "load_in_4bit" not in str(caught.value)
