"""Clips as conversations in JSON Lines and as Parquet."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media import write_video

from livecc_hf.captions.turns import assign_words
from livecc_hf.data.formats.conversations import parse_narration
from livecc_hf.data.formats.jsonl import JsonLines, find_offsets
from livecc_hf.data.formats.rows import parse_row
from livecc_hf.data.samples.narration import encode_narration
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.production.outputs.published_formats import (
    DATASET_SCHEMA,
    conversation_lines,
    dataset_rows,
    open_jsonl,
    write_parquet,
)
from livecc_hf.production.schemas import CLIP_SCHEMA, VIDEO_SCHEMA, words_array
from livecc_hf.production.stages.clips import PretrainClips

WORDS = [(16.8, 16.9, "all"), (16.9, 17.0, "right")]


def clips(*rows: dict) -> pa.Table:
    """Return a table of clips; missing values are null, except in required columns."""
    full = [
        {"id": f"a#{i}", "video": "a.mp4", "start_s": 16.8, "end_s": 158.8, "words": WORDS} | row
        for i, row in enumerate(rows)
    ]
    arrays = {
        item.name: pa.array([row.get(item.name) for row in full], item.type)
        for item in CLIP_SCHEMA
        if item.name != "words"
    }
    arrays["words"] = words_array([row["words"] for row in full])
    return pa.table({name: arrays[name] for name in CLIP_SCHEMA.names}, schema=CLIP_SCHEMA)


def write_jsonl(path, tables) -> int:
    """Return the number of clips in the file."""
    with open_jsonl(path) as writer:
        for table in tables:
            writer.write(table)
    return writer.n_clips


def test_a_line_is_what_live_cc_5m_has():
    """Except for `video_end`, which would be a word's end: see the test of the last word."""
    line = conversation_lines(clips({"title": "A review", "previous": ""}))[0]
    assert line.decode() == (
        '[{"role": "user", "content": [{"type": "video", "video": "a.mp4", "video_start": 16.8, "video_end": 158.8}, '
        '{"type": "text", "text": "", "previous": "", "title": "A review"}]}, {"role": "assistant", "content": '
        '[{"type": "text_stream", "text_stream": [[16.8, 16.9, "all"], [16.9, 17.0, "right"]]}]}]\n'
    )


def test_query_previous_and_category_are_in_the_text():
    table = clips({"query": "What is it?", "previous": "hello", "title": "T", "category": "Sports"})
    text = json.loads(conversation_lines(table)[0])[0]["content"][1]
    assert text == {"type": "text", "text": "What is it?", "previous": "hello", "title": "T", "category": "Sports"}


WORD_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.strip)
SECONDS = st.floats(0, 1e7).map(lambda value: round(value, 3)) | st.sampled_from([0.0, 1e-9, 5e8, 1e10, 1e300])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "words": st.lists(st.tuples(SECONDS, SECONDS, WORD_TEXT), max_size=5),
                "title": st.none() | st.text(st.characters(codec="utf-8"), max_size=9),
                "previous": st.text(st.characters(codec="utf-8"), max_size=9),
                "start_s": SECONDS,
            }
        ),
        min_size=1,
        max_size=4,
    )
)
def test_lines_are_json_of_what_went_in(rows):
    lines = conversation_lines(clips(*rows))
    for row, line in zip(rows, lines, strict=True):
        user, assistant = json.loads(line)
        assert line.count(b"\n") == 1
        assert assistant["content"][0]["text_stream"] == [list(word) for word in row["words"]]
        assert user["content"][0]["video_start"] == row["start_s"]
        assert (user["content"][1]["title"], user["content"][1]["previous"]) == (row["title"] or "", row["previous"])
        streamed = assistant["content"][0]["text_stream"]
        assert all(isinstance(time, float) for word in streamed for time in word[:2])


def test_a_file_is_read_by_its_own_offsets(tmp_path):
    path = tmp_path / "sub" / "clips.jsonl"
    tables = [clips({"title": "één"}, {"previous": 'a "quote"\nand a line'}), clips({"query": "Why?"})]
    assert write_jsonl(path, tables) == 3
    lines = path.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1]) == find_offsets(path)[:-1].tolist()
    read = JsonLines(path, cache_dir=tmp_path)
    assert len(read) == 3
    narration = parse_narration(read[1], "line 2")
    assert (narration.previous, narration.start_s, narration.end_s) == ('a "quote"\nand a line', 16.8, 158.8)
    assert [word.text for word in narration.words] == ["all", "right"]


def test_offsets_are_right_in_a_file_of_many_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("livecc_hf.production.outputs.published_formats._OFFSETS_A_WRITE", 3)
    path = tmp_path / "clips.jsonl"
    write_jsonl(path, [clips({"title": "x" * i}) for i in range(8)])
    *lines, last = path.read_bytes().splitlines(keepends=True)
    offsets = json.loads(last)
    assert [path.read_bytes()[at:].startswith(b'[{"role": "user"') for at in offsets] == [True] * 8
    assert offsets == [sum(map(len, lines[:i])) for i in range(8)]


def test_nothing_is_written_when_writing_fails(tmp_path):
    path = tmp_path / "clips.jsonl"
    path.write_text("before")
    with pytest.raises(ValueError, match="there is no clip"):
        write_jsonl(path, [clips()])

    def broken():
        yield clips({})
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_jsonl(path, broken())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "clips.jsonl"
    with open_jsonl(path) as writer:
        writer.write(clips({}))
        assert not path.exists()
    assert path.exists()


def test_rows_are_what_training_reads(tmp_path):
    path = tmp_path / "data" / "a.parquet"
    table = clips({"query": "Why?", "title": "T", "previous": "hello", "category": "Sports"}, {})
    write_parquet(path, table)
    rows = pq.read_table(path)
    assert rows.schema.equals(DATASET_SCHEMA) and rows.equals(dataset_rows(table))
    narration = parse_row(rows.to_pylist()[0], "row 1")
    assert narration == parse_narration(json.loads(conversation_lines(table)[0]), "line 1")
    assert parse_row(rows.to_pylist()[1], "row 2").query is None


@pytest.mark.parametrize("end_s", [3.2, 6.5, 6.97])
def test_a_frame_is_sampled_after_the_last_word(end_s):
    """Training samples every 0.5 s from the clip's start, and cuts words that end after the last frame is shown."""
    words = [(1.0, 1.4, "Red"), (1.4, 1.9, "ball"), (end_s - 0.3, end_s, "stops.")]
    table = clips({"start_s": 1.0, "end_s": end_s, "words": words})
    [row] = dataset_rows(table).to_pylist()
    assert json.loads(conversation_lines(table)[0])[0]["content"][0]["video_end"] == row["video_end"]
    assert end_s < row["video_end"] <= end_s + 0.5
    sampled_s = np.arange(row["video_start"], row["video_end"] + 1e-6, 0.5)  # each shown without holding it
    assert assign_words(words, [sampled_s[-1]])[1] == 0


@pytest.mark.parametrize("word_s", [0.5, pytest.param(0.34, marks=pytest.mark.slow)])
def test_training_cuts_no_word_of_the_longest_clips(tmp_path, processor, word_s):
    """Decoded, sampled and encoded, a clip as long as 480 frames keeps all of its words."""
    write_video(tmp_path / "a.mp4", n_frames=1000, fps=2, size_px=(56, 56))
    n_words = int(490 / word_s)
    words = words_array([[(0.3 + i * word_s, 0.3 + (i + 1) * word_s, "word") for i in range(n_words)]])
    known = {"id": pa.array(["a"]), "video": pa.array(["a.mp4"]), "words": words}
    columns = {item.name: known.get(item.name, pa.nulls(1, item.type)) for item in VIDEO_SCHEMA}
    rows = dataset_rows(PretrainClips()(pa.table(columns, schema=VIDEO_SCHEMA)).kept).to_pylist()
    assert len(rows) == 2 and rows[0]["video_end"] - rows[0]["video_start"] > 240 - word_s
    options = EncodeOptions(min_pixels=28 * 28, max_pixels=28 * 28)
    for number, row in enumerate(rows):
        sample = encode_narration(parse_row(row, f"row {number}"), processor, options, tmp_path)
        assert (sample.n_words, sample.n_cut_words, sample.n_cut_turns) == (len(row["words"]), 0, 0)


def test_a_clip_that_ends_late_enough_stays_as_it_is():
    """If the clips of a dataset pass through more stages, their ends stay; so do those of clips without words."""
    rows = dataset_rows(clips({"end_s": 17.5}, {"end_s": 17.0}, {"end_s": 30.0}, {"words": [], "end_s": 20.0}))
    assert rows["video_end"].to_pylist() == [17.5, 17.5, 30.0, 20.0]


def test_other_columns_are_refused():
    for function in (dataset_rows, conversation_lines):
        with pytest.raises(ValueError, match="expected those of CLIP_SCHEMA"):
            function(pa.table({"video": ["a.mp4"]}))


def test_words_without_a_finite_time_are_refused():
    for bad in ((math.nan, 1.0, "a"), (0.0, math.inf, "a"), (0.0, None, "a"), (0.0, 1.0, None)):
        with pytest.raises(ValueError, match="clip a#1 has a word without"):
            conversation_lines(clips({}, {"words": [bad]}))
