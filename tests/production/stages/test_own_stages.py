"""Stages of the user's own that are wrong: each is one clear error, before or at its first batch."""

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from livecc_hf.production.errors import StageBrokenError
from livecc_hf.production.execution.pipeline import open_stage
from livecc_hf.production.execution.stage_runs import run_batch
from livecc_hf.production.schemas import CLIP_SCHEMA, DROPPED_SCHEMA
from livecc_hf.production.stages.base import RowFilter, Stage, StageResult, split
from livecc_hf.production.stages.registry import make_stage


@dataclass(frozen=True)
class Own(Stage):
    """Returns what the test gives it."""

    name: ClassVar[str] = "own"
    result: Any = None

    def __call__(self, batch: pa.Table) -> StageResult:
        return self.result


@dataclass(frozen=True)
class OwnClips(Own):
    makes_clips: ClassVar[bool] = True


@dataclass(frozen=True)
class Loader(Own):
    exits: bool = False

    def open(self) -> None:
        raise SystemExit(3) if self.exits else KeyError("weights")


@dataclass(frozen=True)
class Exits(RowFilter):
    name: ClassVar[str] = "exits"

    def filter(self, row):
        if row["id"] == "v1#0":
            sys.exit(3)
        return True


@dataclass(frozen=True)
class TakesClip(RowFilter):
    name: ClassVar[str] = "takes_clip"
    takes: ClassVar[str] = "clip"

    def filter(self, row):
        return True


@dataclass(frozen=True)
class ReadsText(TakesClip):
    takes: ClassVar[str] = "clips"
    reads: ClassVar[Any] = "words"


@dataclass(frozen=True)
class Input(TakesClip):
    name: ClassVar[str] = "input"


def clips(n: int) -> pa.Table:
    columns = {field.name: pa.nulls(n, field.type) for field in CLIP_SCHEMA}
    return pa.table(columns | {"id": [f"v{i}#0" for i in range(n)]}).cast(CLIP_SCHEMA)


NONE = DROPPED_SCHEMA.empty_table()
ROWS = clips(3)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, r"stage own returned NoneType: expected StageResult\(kept, dropped\)"),
        (ROWS, "stage own returned Table: expected StageResult"),
        (
            StageResult(ROWS.drop_columns(["words", "title"]), NONE),
            "stage own returned rows without title, words: expected",
        ),
        (
            StageResult(ROWS, ROWS),
            "stage own returned dropped rows with the columns id, video, title, .*the function split",
        ),
        (StageResult(ROWS.slice(1), NONE), "stage own returned 1 of 3 rows neither as kept nor as dropped"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_result_that_loses_something_stops_the_run(result, message):
    with pytest.raises(StageBrokenError, match=message):
        run_batch(Own(result), ROWS)


def test_a_result_may_have_more_columns_and_a_cutting_stage_other_rows():
    reasons = np.array([None, "a", None], object)
    more = ROWS.append_column("mine", pa.array([1, 2, 3]))
    assert run_batch(Own(split("own", more, reasons)), ROWS).kept["mine"].to_pylist() == [1, 3]
    assert len(run_batch(OwnClips(StageResult(ROWS.slice(1), NONE)), ROWS).kept) == 2
    with pytest.raises(StageBrokenError, match="rows without previous: expected .* CLIP_SCHEMA if it cuts clips"):
        run_batch(OwnClips(StageResult(ROWS.drop_columns("previous"), NONE)), ROWS)


def test_a_stage_that_cannot_be_opened_is_named():
    with pytest.raises(StageBrokenError, match="stage own cannot be opened: KeyError: 'weights'"):
        open_stage(Loader(), ROWS)
    with pytest.raises(StageBrokenError, match="stage own cannot be opened: SystemExit: 3"):
        open_stage(Loader(exits=True), ROWS)


def test_a_stage_that_exits_costs_the_item_and_not_the_run():
    result = run_batch(Exits(), ROWS)
    assert result.kept["id"].to_pylist() == ["v0#0", "v2#0"]
    (dropped,) = result.dropped.to_pylist()
    assert (dropped["id"], dropped["reason"], dropped["detail"]) == ("v1#0", "error", "SystemExit: 3")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("TakesClip", "takes is 'clip': expected one of videos, clips, both"),
        ("ReadsText", r"reads is 'words': expected a tuple of columns, such as \('words',\)"),
        ("Input", "has the name 'input', which a run's own step has: choose another"),
    ],
)
def test_a_class_with_a_wrong_attribute_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        make_stage(f"{__name__}:{name}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = = 1", "SyntaxError: invalid syntax"),
        ("raise OSError('gone')", "OSError: gone"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(tmp_path, monkeypatch, text, message):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wrong_stages.py").write_text(text)
    with pytest.raises(
        ValueError, match=f"stage 'wrong_stages:A' cannot be imported: {message}.*with the module on PYTHONPATH"
    ):
        make_stage("wrong_stages:A")
    with pytest.raises(ValueError, match="stage ':A' cannot be imported: ValueError: Empty module name"):
        make_stage(":A")
