"""Written caption files, read back with other libraries' parsers."""

import html
import io
import json
import math
from datetime import timedelta

import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from livecc_hf.captions.writers import FORMATS, Caption, clock, open_writer
from livecc_hf.utils.text import one_line

CAPTIONS = [
    Caption(0.0, 3.0, "A red ball enters."),
    Caption(3.0, 4.0, ""),
    Caption(4.0, 5.0, "Tom & Jerry: 3 < 4 --> true"),
    Caption(3661.5, 3662.25, "first line\n\nthird line"),
]


def written(format, captions):
    file = io.StringIO()
    writer = open_writer(format, file)
    for caption in captions:
        writer.write(caption)
    return file.getvalue()


def parsed(format, content):
    """(start, end, text) of each cue, in seconds."""
    if format == "srt":
        cues = list(srt.parse(content))
        assert [cue.index for cue in cues] == list(range(1, len(cues) + 1))
        return [(cue.start / timedelta(seconds=1), cue.end / timedelta(seconds=1), cue.content) for cue in cues]
    cues = webvtt.from_string(content).captions
    return [(cue.start_in_seconds, cue.end_in_seconds, html.unescape(cue.raw_text)) for cue in cues]


@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_subtitles_read_back(format):
    cues = parsed(format, written(format, CAPTIONS))
    arrow = "-->" if format == "vtt" else "→"
    assert [text for _, _, text in cues] == [
        "A red ball enters.",
        f"Tom & Jerry: 3 < 4 {arrow} true",
        "first line third line",
    ]
    if format == "srt":
        assert [(start, end) for start, end, _ in cues] == [(0, 3), (4, 5), (3661.5, 3662.25)]


def test_files_are_exactly():
    captions = CAPTIONS[1:3]
    assert written("srt", captions) == "1\n00:00:04,000 --> 00:00:05,000\nTom & Jerry: 3 < 4 → true\n\n"
    assert written("vtt", captions) == (
        "WEBVTT\n\n00:00:04.000 --> 00:00:05.000\nTom &amp; Jerry: 3 &lt; 4 --&gt; true\n\n"
    )
    assert written("text", captions) == "00:04.0 - 00:05.0  Tom & Jerry: 3 < 4 --> true\n"
    assert [json.loads(line) for line in written("jsonl", captions).splitlines()] == [
        {"start_s": 3.0, "end_s": 4.0, "text": ""},
        {"start_s": 4.0, "end_s": 5.0, "text": "Tom & Jerry: 3 < 4 --> true"},
    ]


def test_a_file_without_words_is_valid():
    assert written("srt", [Caption(0, 1, " \n ")]) == ""
    assert written("vtt", []) == "WEBVTT\n\n"
    assert webvtt.from_string(written("vtt", [])).captions == []


times = st.floats(-10, 400_000)
captions = st.lists(st.builds(lambda a, b, text: Caption(min(a, b), max(a, b), text), times, times, st.text()))


@pytest.mark.parametrize("format", ["srt", "vtt"])
@given(captions=captions)
def test_cues_are_kept_in_order_and_never_overlap(format, captions):
    content = written(format, captions)
    cues = parsed(format, content)
    expected = [one_line(caption.text) for caption in captions]
    if format == "srt":
        expected = [text.replace("-->", "→") for text in expected]
    assert [text for _, _, text in cues] == [text for text in expected if text]
    if format == "srt":
        last_end = 0
        for start, end, _ in cues:
            assert last_end <= start < end
            last_end = end
    content.encode("utf-8")


@given(captions=captions)
def test_text_and_jsonl_are_one_line_each(captions):
    assert len(written("text", captions).splitlines()) == sum(bool(one_line(c.text)) for c in captions)
    lines = written("jsonl", captions).removesuffix("\n").split("\n") if captions else []
    assert [json.loads(line)["text"] for line in lines] == [c.text for c in captions]


@pytest.mark.parametrize("format", FORMATS)
def test_each_caption_is_on_the_disk_before_the_next(format, tmp_path):
    path = tmp_path / "captions"
    with path.open("w", encoding="utf-8") as file:
        writer = open_writer(format, file)
        writer.write(CAPTIONS[0])
        assert path.read_text(encoding="utf-8") == written(format, CAPTIONS[:1])
        writer.write(CAPTIONS[2])
        assert path.read_text(encoding="utf-8") == written(format, [CAPTIONS[0], CAPTIONS[2]])


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="format 'ass' is unknown: expected text, jsonl, srt, vtt"):
        open_writer("ass", io.StringIO())
    with pytest.raises(ValueError, match=r"ends at 1 s, before it starts at 2 s"):
        written("srt", [Caption(2, 1, "x")])
    with pytest.raises(ValueError, match="expected finite times"):
        written("vtt", [Caption(0, math.nan, "x")])


@pytest.mark.parametrize(
    ("time_s", "shown"),
    [
        (0, "00:00.0"),
        (59.96, "01:00.0"),
        (61.24, "01:01.2"),
        (3599.99, "1:00:00.0"),
        (-0.01, "00:00.0"),
        (-1, "-00:01.0"),
    ],
)
def test_clock(time_s, shown):
    assert clock(time_s) == shown
