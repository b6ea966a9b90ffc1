"""The report: counts and charts, and spoken text that must not break the page."""

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from livecc_hf.production.execution.units import StageStats
from livecc_hf.production.outputs.report.charts import cutting_stage, draw, make_distributions, thresholds_of
from livecc_hf.production.outputs.report.write import write_report
from livecc_hf.production.schemas import CLIP_SCHEMA, DROPPED_SCHEMA, words_array
from livecc_hf.production.stages.clips import PretrainClips
from livecc_hf.production.stages.text_loss import TextLoss


@dataclass(frozen=True)
class MyClips(PretrainClips):
    """Cuts clips in its own way."""

    name: ClassVar[str] = "my_clips"


STAGES = [PretrainClips(), TextLoss(max_loss=5)]
STATS = [StageStats("input", 10, 9), StageStats("pretrain_clips", 9, 30, 0.5, 0.4), StageStats("text_loss", 30, 20)]


def clips(n: int) -> pa.Table:
    columns = {field.name: pa.nulls(n, field.type) for field in CLIP_SCHEMA}
    columns |= {
        "id": [f"v{i}#0" for i in range(n)],
        "start_s": np.zeros(n),
        "end_s": np.full(n, 40.0),
        "text_loss": np.full(n, 2.5),
        "words": words_array([[(0.0, 1.0, f"<b>word{i}</b>")] * 80 for i in range(n)]),
    }
    return pa.table(columns, schema=CLIP_SCHEMA)


def dropped_file(tmp_path, rows):
    pq.write_table(pa.Table.from_pylist(rows, DROPPED_SCHEMA), tmp_path / "dropped.parquet")
    return pq.ParquetFile(tmp_path / "dropped.parquet")


def drop(number, stage, reason, value=None):
    return {"id": f"d{number}", "stage": stage, "reason": reason, "value": value, "text": "<script>alert(1)</script>"}


def test_the_page_shows_counts_thresholds_and_samples_and_is_safe(tmp_path):
    rows = [drop(i, "text_loss", "high", 5.0 + i) for i in range(9)] + [drop(20, "pretrain_clips", "short", 12.0)]
    write_report(tmp_path, STATS, STAGES, [clips(20), clips(0)], dropped_file(tmp_path, rows))
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("&lt;b&gt;word") >= 12
    for text in ("kept 20", "dropped by it 9", "max_loss = 5", "min_s = 30", "Dropped by text_loss: high", "unknown"):
        assert text in page, text
    assert "p(talking head)" not in page  # no row has it
    assert "<li>min_s = <b>30.0</b></li>" in page  # as it is by default
    assert '<li class="set">max_loss = <b>5</b> (default 6.5)</li>' in page
    assert "Highest mean loss, in nats per token." in page
    assert not any(f"{name} =" in page for name in ("name", "takes", "makes_clips", "batch_rows"))
    assert len(re.findall(r"<b>d\d+<", page)) == 7  # six samples of a reason, one of the other
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("n_clips", [4, 9, 30])
def test_clips_are_no_share_of_videos(tmp_path, n_clips):
    """Also if there are not more of them, and if a stage of the user's own cuts them."""
    stats = [StageStats("input", 10, 9), StageStats("my_clips", 9, n_clips), StageStats("text_loss", n_clips, 3)]
    write_report(tmp_path, stats, [MyClips(), TextLoss()], [clips(3)], dropped_file(tmp_path, []))
    page = (tmp_path / "report.html").read_text()
    assert page.count("clips of videos") == 1 and page.count('class="share"') == 2
    assert f"9 videos in, {n_clips} clips kept" in page
    assert cutting_stage(stats, [MyClips(), TextLoss()]) == 1


@pytest.mark.parametrize(("n_out", "remark"), [(29, "2 rows below: a part"), (28, "1 row below: a part"), (27, "")])
def test_rows_about_parts_of_kept_items_are_told_from_dropped_items(tmp_path, n_out, remark):
    stats = [StageStats("text_loss", 30, n_out)]
    rows = [drop(i, "text_loss", "lost_words") for i in range(3)]
    write_report(tmp_path, stats, [TextLoss()], [clips(3)], dropped_file(tmp_path, rows))
    page = (tmp_path / "report.html").read_text()
    assert remark in page and page.count("below: a part that was lost of an item that was kept") == bool(remark)


def test_samples_do_not_depend_on_the_order(tmp_path):
    pages = []
    for tables in ([clips(40)], [clips(40).slice(25), clips(40).slice(0, 25)]):
        write_report(tmp_path, STATS, STAGES, tables, dropped_file(tmp_path, []))
        pages.append((tmp_path / "report.html").read_text())
    assert pages[0] == pages[1]


def test_each_number_is_drawn_with_the_thresholds_that_cut_it():
    found = {item.title: dict(thresholds_of(item, STAGES)) for item in make_distributions()}
    assert found["Clip length in seconds"] == {"min_s": 30.0, "max_s": 240.0}
    assert found["Words per second"] == {"min_words_per_s": 1.0, "max_words_per_s": 4.0}
    assert found["Text loss"] == {"min_loss": 1.5, "max_loss": 5.0}
    assert found["Language score"] == {}


def test_values_outside_count_at_the_ends_and_missing_ones_nowhere():
    item = make_distributions()[0]
    counts = item.count(np.array([-5.0, 10.0, 1e6, np.nan]))
    assert (counts.sum(), counts[0], counts[-1]) == (3, 1, 1)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_any_number_of_distributions_is_drawn(n):
    figure = draw(STATS, make_distributions()[:n], STAGES)
    assert len(figure.axes) == 2 + n


def test_dropped_rows_may_share_an_id(tmp_path):
    """If a manifest has an id three times, two of its rows are dropped, although their videos differ."""
    rows = [{"id": "v1", "video": f"{i}.mp4", "stage": "input", "reason": "repeated"} for i in range(60)]
    pq.write_table(pa.Table.from_pylist(rows, DROPPED_SCHEMA), tmp_path / "dropped.parquet")
    write_report(tmp_path, STATS, STAGES, [clips(3)], pq.ParquetFile(tmp_path / "dropped.parquet"))
    assert "Dropped by input: repeated" in (tmp_path / "report.html").read_text()
