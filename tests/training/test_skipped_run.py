"""Samples that cannot be used, in a run."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from changed_source import tiny_source

from livecc_hf.cli.main import main as program
from livecc_hf.data.sources.tiny import TinyPart
from livecc_hf.data.unusable import UnusableSample
from livecc_hf.training.script import main
from livecc_hf.training.skipping import TooManySkippedError


@dataclass(frozen=True)
class Broken:
    """Looks well until it is decoded."""

    item: object

    def encode(self, processor, options):
        raise UnusableSample("unreadable_media", "the file is damaged")

    def count_tokens(self, processor, options):
        return self.item.count_tokens(processor, options)


class LeakyPart(TinyPart):
    """Every tenth item is broken, or its row malformed."""

    def __getitem__(self, row):
        if row % 20 == 5:
            raise UnusableSample("malformed", "no such key")
        item = super().__getitem__(row)
        return Broken(item) if row % 20 == 15 else item


@pytest.fixture()
def leaky():
    with tiny_source("leaky", LeakyPart):
        yield


def entry(samples: int) -> dict:
    return {"source": "leaky", "task": "list", "length": [1, 1], "samples": samples}


@pytest.mark.parametrize("packed", [{}, {"packing": True, "max_length": 300}])
def test_each_is_listed_and_no_step_is_lost(recipe, tmp_path, leaky, packed):
    main(["--config", recipe(data=[entry(60)], **packed, save_strategy="steps", save_steps=5, num_train_epochs=1)])
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert sorted((line["index"], line["reason"]) for line in lines) == [
        (5, "malformed"),
        (15, "unreadable_media"),
        (25, "malformed"),
        (35, "unreadable_media"),
        (45, "malformed"),
        (55, "unreadable_media"),
    ]
    assert all(line["origin"].startswith("tiny list, seed") for line in lines)
    last = max((tmp_path / "out").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((last / "trainer_state.json").read_text())
    if not packed:
        assert state["global_step"] == 15
    assert json.loads((last / "livecc_run.json").read_text())["skipped"] == {"n_samples": 60, "n_skipped": 6}


def test_a_whole_batch_that_cannot_be_used_has_no_effect(recipe, tmp_path, leaky):
    path = recipe(data=[entry(20)], per_device_train_batch_size=1, num_train_epochs=1, save_strategy="epoch")
    main(["--config", path])
    state = json.loads((tmp_path / "out" / "checkpoint-20" / "trainer_state.json").read_text())
    steps = [log for log in state["log_history"] if "grad_norm" in log]
    # There is no mean over zero tokens.
    assert [log["step"] for log in steps if "loss" not in log] == [6, 16]
    assert [log["step"] for log in steps if log["grad_norm"] == 0] == [6, 16]


def test_past_the_limit_the_run_stops(recipe, leaky):
    path = recipe(data=[entry(220)], per_device_train_batch_size=20)
    with pytest.raises(TooManySkippedError, match=r"of 200 samples .* max_skipped=0.01"):
        main(["--config", path])


@pytest.mark.slow
def test_the_limit_may_be_higher(recipe, tmp_path, leaky):
    path = recipe(data=[entry(220)], per_device_train_batch_size=20)
    main(["--config", path, "max_skipped=0.2", f"output_dir={tmp_path / 'lenient'}"])


class TestAFullDiskInAWorker:
    """A worker downloads media to a cache, whose disk may be full."""

    @pytest.fixture()
    def filling(self):
        @dataclass(frozen=True)
        class Filling(Broken):
            def encode(self, processor, options):
                Path("/dev/full").write_bytes(b"media")

        class FillingPart(TinyPart):
            def __getitem__(self, row):
                return Filling(super().__getitem__(row))

        with tiny_source("filling", FillingPart):
            yield

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    def test_it_is_one_clear_line(self, recipe, filling, capsys):
        data = [{"source": "filling", "task": "list", "length": [1, 1], "samples": 4}]
        assert program(["train", "--config", recipe(data=data, dataloader_num_workers=1)]) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if "Traceback" in line or "error" in line]
        assert re.fullmatch(r"livecc: error: the disk of .* is full \(No space left on device\): free some space", line)
