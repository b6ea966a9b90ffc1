"""A user's own filter that decides row by row."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from livecc_hf.production.errors import StageBrokenError
from livecc_hf.production.execution.stage_runs import run_batch
from livecc_hf.production.schemas import VIDEO_SCHEMA, words_array
from livecc_hf.production.stages.base import RowFilter
from livecc_hf.production.stages.registry import make_stage


@dataclass(frozen=True)
class Says(RowFilter):
    """Returns the verdict that a video's title names."""

    name: ClassVar[str] = "says"
    verdicts: tuple[tuple[str, Any], ...] = ()

    def filter(self, row):
        return dict(self.verdicts)[row["title"]]


@dataclass(frozen=True)
class Spoken(RowFilter):
    """Keeps videos with enough words."""

    name: ClassVar[str] = "spoken"
    reads: ClassVar[tuple[str, ...]] = ("words",)
    least: int = 2

    def filter(self, row):
        assert list(row) == ["words"]
        return len(row["words"]) >= self.least or (False, "few", len(row["words"]))


class NoDataclass(RowFilter):
    name: ClassVar[str] = "no_dataclass"

    def filter(self, row):
        return True


@dataclass(frozen=True)
class Nameless(RowFilter):
    def filter(self, row):
        return True


def videos(titles, words=None) -> pa.Table:
    rows = len(titles)
    columns = {"id": [f"v{i}" for i in range(rows)], "title": titles}
    columns |= {"words": words_array(words)} if words else {}
    return pa.table({name: columns.get(name, pa.nulls(rows)) for name in VIDEO_SCHEMA.names}).cast(VIDEO_SCHEMA)


def says(*verdicts):
    titles = [str(number) for number in range(len(verdicts))]
    return Says(tuple(zip(titles, verdicts)))(videos(titles))


def test_rows_are_kept_and_dropped_with_reason_and_value():
    found = says(True, False, (False, "dull"), (False, "long", 7), np.bool_(True), (True, "whatever"), np.bool_(False))
    assert found.kept["id"].to_pylist() == ["v0", "v4", "v5"] and found.kept.schema == VIDEO_SCHEMA
    dropped = found.dropped.select(["id", "stage", "reason", "value"]).to_pylist()
    assert [tuple(row.values()) for row in dropped] == [
        ("v1", "says", "says", None),
        ("v2", "says", "dull", None),
        ("v3", "says", "long", 7.0),
        ("v6", "says", "says", None),
    ]


@pytest.mark.parametrize("verdict", [None, "no", 1, (), (False, ""), (False, 3), (False, "a", "b"), (False, "a", 1, 2)])
def test_what_is_no_verdict_ends_the_run(verdict):
    with pytest.raises(StageBrokenError, match="stage says: filter returned .*expected True, False"):
        says(True, verdict)


def test_a_filter_gets_the_columns_that_it_reads():
    words = [[(0.0, 0.5, "one"), (0.5, 1.0, "two")], [(0.0, 0.5, "one")], []]
    found = Spoken()(videos(["a", "b", "c"], words))
    assert found.kept["id"].to_pylist() == ["v0"]
    assert found.dropped["value"].to_pylist() == [1.0, 0.0]
    with pytest.raises(StageBrokenError, match="stage spoken reads words: expected columns of its input"):
        Spoken()(videos(["a"]).drop_columns(["words"]))


def test_an_error_drops_its_row_alone():
    found = run_batch(Says((("a", True),)), videos(["a", "b", "a"]))
    assert found.kept["id"].to_pylist() == ["v0", "v2"]
    [lost] = found.dropped.to_pylist()
    assert (lost["id"], lost["reason"], lost["detail"]) == ("v1", "error", "KeyError: 'b'")


def test_nothing_goes_through():
    found = Spoken()(videos([]))
    assert len(found.kept) == len(found.dropped) == 0


def test_a_recipe_names_it_with_its_thresholds():
    assert make_stage("test_row_filter:Spoken", {"least": 3}).least == 3
    with pytest.raises(ValueError, match=r"put @dataclass\(frozen=True\) above the class"):
        make_stage("test_row_filter:NoDataclass")
    with pytest.raises(ValueError, match="has no name: give its class one"):
        make_stage("test_row_filter:Nameless")
