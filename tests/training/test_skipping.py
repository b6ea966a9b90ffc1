"""Counting what cannot be used."""

import json

import pytest

from livecc_hf.data.batches.loader import SkippedSample
from livecc_hf.training.skipping import COUNTED_FROM, SkipLedger, TooManySkippedError


def skipped(index: int) -> SkippedSample:
    return SkippedSample(index, f"clips.jsonl:{index + 1}", "missing_file", "media file a.mp4 does not exist")


def test_each_is_listed_with_its_step(tmp_path):
    ledger = SkipLedger(tmp_path, 0.01)
    ledger.write([], 1)
    assert not ledger.file.exists()
    ledger.write([skipped(4), skipped(9)], 2)
    lines = [json.loads(line) for line in ledger.file.read_text().splitlines()]
    assert [(line["step"], line["index"], line["reason"]) for line in lines] == [
        (2, 4, "missing_file"),
        (2, 9, "missing_file"),
    ]


def test_the_limit_counts_from_a_number_of_samples_on(tmp_path):
    ledger = SkipLedger(tmp_path, 0.01)
    ledger.write([skipped(i) for i in range(3)], 1)
    ledger.count(COUNTED_FROM - 1, 3)
    with pytest.raises(TooManySkippedError, match=r"3 of 200 .* max_skipped=0.01 .*3 missing_file.*skipped.jsonl"):
        ledger.count(1, 0)
    SkipLedger(tmp_path, 0.01).count(300, 3)


def test_a_resumed_run_forgets_what_it_will_meet_again(tmp_path):
    ledger = SkipLedger(tmp_path, 1.0)
    for step in (1, 2, 3):
        ledger.write([skipped(step)], step)
    with ledger.file.open("a") as file:
        file.write('{"step": 4, "ind')  # killed while writing
    ledger.forget_after(2)
    assert [json.loads(line)["step"] for line in ledger.file.read_text().splitlines()] == [1, 2]
    ledger.count(10, 2)
    other = SkipLedger(tmp_path, 1.0)
    other.restore(json.loads(json.dumps(ledger.state())))
    assert (other.n_samples, other.n_skipped) == (10, 2)


def test_a_sample_is_named_once_however_many_epochs_skip_it(tmp_path, caplog):
    ledger = SkipLedger(tmp_path, 1.0)
    for step in (1, 2):
        ledger.write([skipped(4)], step)
        ledger.count(5, 1)
    assert caplog.text.count("skipped clips.jsonl:5") == 1
    ledger.check_end()
    assert "2 of 10 samples read could not be used (2 missing_file)" in caplog.text


def test_an_epoch_without_a_usable_sample_ends_the_run(tmp_path):
    ledger = SkipLedger(tmp_path, 1.0, n_in_epoch=2)
    ledger.write([skipped(0), skipped(1)], 1)
    ledger.count(1, 1)
    with pytest.raises(TooManySkippedError, match="none of the 2 samples could be used"):
        ledger.count(1, 1)
