"""Texts and errors as parts of one-line messages."""

import pytest

from livecc_hf.utils.text import counted, one_line


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (" two\n\nlines\t", "two lines"),
        ("\x1b[31mred\x00", "[31mred"),
        ("half a \ud800 character", "half a character"),
        ("", ""),
        (ValueError("bad:\n  value"), "bad: value"),
        (ValueError("\x07"), "ValueError"),
        (KeyError(), "KeyError"),
    ],
)
def test_texts_and_errors_become_one_line(said, line):
    assert one_line(said) == line


def test_errors_are_cut_and_texts_are_not():
    assert one_line("x" * 1000) == "x" * 1000
    assert one_line(ValueError("x" * 1000)) == "x" * 400
    assert one_line(ValueError("abc"), 2) == one_line("abc", 2) == "ab"


def test_numbers_agree_with_their_nouns():
    assert [counted(n, "turn") for n in (0, 1, 2048)] == ["0 turns", "1 turn", "2,048 turns"]
    assert [counted(n, "reply", "replies") for n in (1, 2)] == ["1 reply", "2 replies"]
