"""The small tokenizer."""

import runpy
from pathlib import Path

import pytest

from livecc_hf.modeling.grammar import CONTINUATION
from livecc_hf.tiny.narration import QUERY

RECIPE = Path(__file__).parents[2] / "recipes/livecc-tiny"
FIRST_TURN = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nTime=0.0-3.0s"
    f"<|vision_start|><|video_pad|><|vision_end|>{QUERY}<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def tokenizer():
    return runpy.run_path(str(RECIPE / "make_tokenizer.py"))["build"]()


def test_size(tokenizer):
    assert len(tokenizer) <= 426


def test_the_continuation_is_one_token_in_every_place(tokenizer):
    (continuation,) = tokenizer.encode(CONTINUATION)
    assert tokenizer.encode("Red ball bounces. ...<|im_end|>")[-2:] == [continuation, tokenizer.eos_token_id]


def test_words_are_single_tokens(tokenizer):
    assert len(tokenizer.encode("Red ball disappears.")) == 4
    assert len(tokenizer.encode("Red ball hits square. Blue triangle changes.")) == 9


def test_times_are_spelled_digit_by_digit(tokenizer):
    tokens = tokenizer.tokenize("Time=123.0-124.0s")
    assert tokens == ["Time", "=", "1", "2", "3", ".", "0", "-", "1", "2", "4", ".", "0", "s"]


def test_any_text_comes_back(tokenizer):
    for text in (FIRST_TURN, "Ünïcode 漢字 \n\t ok…", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_is_the_grammar(tokenizer):
    content = [{"type": "text", "text": "Time=0.0-3.0s"}, {"type": "video"}, {"type": "text", "text": QUERY}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert text == FIRST_TURN
