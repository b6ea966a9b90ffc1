"""The grammar's words and numbers."""

import pytest

from livecc_hf.modeling import grammar


@pytest.mark.parametrize(
    ("query", "title", "previous", "text"),
    [
        ("Q", None, None, "Q"),
        ("Q", "T", None, "Q\nT"),
        ("Q", None, "P", "Q\n\nP"),
        ("Q", "T", "P", "Q\n\nP"),
        ("", "T", None, "T"),
    ],
)
def test_context_follows_the_query(query, title, previous, text):
    assert grammar.query_text(query, title, previous) == text


@pytest.mark.parametrize(
    ("generated", "heard"),
    [
        (" ...", ""),
        ("a goal ...", "a goal"),
        (" wait... ...", "wait..."),
        ("so...", "so..."),
        ("a ... b ...", "a ... b"),
    ],
)
def test_only_the_continuation_is_stripped(generated, heard):
    assert grammar.strip_continuation(generated) == heard


def test_pixel_budget():
    assert grammar.frame_pixel_budget(2) == 768 * 784
    assert grammar.frame_pixel_budget(128) == 384 * 784
    assert grammar.frame_pixel_budget(480) == 105 * 784


def test_streamingvlm_writes_the_previous_text_as_a_message():
    assert grammar.first_texts("Q", "T", "P", grammar.STREAMINGVLM) == ("Q\nT", "P")
    assert grammar.first_texts("Q", "T", "P") == ("Q\n\nP", "")
    opening = grammar.prompt_start("S", grammar.STREAMINGVLM, "P")
    assert opening == "<|im_start|>system\nS<|im_end|>\n<|im_start|>previous text\nP<|im_end|>\n"
    with pytest.raises(ValueError, match="previous=nan"):
        grammar.first_texts("Q", None, float("nan"), grammar.STREAMINGVLM)


def test_grammars_are_found_by_name():
    assert grammar.find_grammar("livecc") is grammar.LIVECC
    for name in ("other", None, 3):
        with pytest.raises(ValueError, match=f"grammar={name!r} is unknown: expected one of livecc, streamingvlm"):
            grammar.find_grammar(name)
