"""Caption files are read as timed words."""

import json

import pytest

from livecc_hf.captions.files import read_words
from livecc_hf.captions.words import Word, checked_words

SPOKEN = [Word(1.0, 1.5, "red"), Word(1.5, 2.0, "ball"), Word(3.0, 3.4, "stops")]


@pytest.mark.parametrize(
    "value",
    [
        [[1.0, 2.0, "red ball"], [3.0, 3.4, "stops"]],
        [{"start": 1.0, "end": 2.0, "text": " red  ball "}, {"start": 3.0, "end": 3.4, "word": "stops"}],
        {"words": [[1.0, 1.5, "red"], [1.5, 2.0, "ball"], [2.2, 2.2, " "], [3.0, 3.4, "stops"]]},
        {
            "segments": [
                {"start": 0, "end": 9, "text": "no", "words": [{"start": 1.0, "end": 1.5, "word": " red"}]},
                {"start": 1.5, "end": 2.0, "text": "ball"},
                {"start": 3.0, "end": 3.4, "text": "stops"},
            ]
        },
    ],
)
def test_every_json_form(value, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value))
    assert read_words(path) == SPOKEN


def test_srt_and_vtt_lines_are_split_evenly(tmp_path):
    (tmp_path / "a.srt").write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nred ball\n\n2\n00:00:03,000 --> 00:00:03,400\nstops\n\n"
    )
    (tmp_path / "a.vtt").write_text(
        "WEBVTT\n\n00:01.000 --> 00:02.000\n<v Ann>red\nball\n\n00:03.000 --> 00:03.400 line:0\nstops\n"
    )
    for name in ("a.srt", "a.vtt"):
        words = read_words(tmp_path / name)
        assert [w.text for w in words] == ["red", "ball", "stops"]
        assert [w[:2] for w in words] == [pytest.approx(w[:2]) for w in SPOKEN]


def test_words_are_put_in_the_order_spoken():
    assert [w.text for w in checked_words([[2, 3, "b"], [0, 1, "a"]], "x")] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", '{"x": 1}', "without 'words' or 'segments'"),
        ("a.json", "3", "contains a JSON int"),
        ("a.json", '[[1, "x"]]', r"word 0 is \[1, 'x'\]: expected \[start, end, word\]"),
        ("a.json", '[[2, 1, "x"]]', "word 0 runs from 2.0 to 1.0 s"),
        ("a.vtt", "no header", "is not a valid VTT file"),
        ("a.srt", "1\nno times\n", "is not a valid SRT file"),
        ("a.txt", "x", "expected a file that ends in .json3, .json, .vtt"),
    ],
)
def test_other_files_are_one_clear_error(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_words(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="b.srt does not exist"):
        read_words(tmp_path / "b.srt")
