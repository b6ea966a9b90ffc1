"""Fixtures of the evaluation tests."""

import copy

import pytest


@pytest.fixture(scope="session")
def talkative(make_model, processor, tmp_path_factory):
    """A model whose tokenizer has single tokens for Yes, No, digits and letters."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("talkative")
    processor.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["Yes", "No", *"0123456789", *"ABCDE"])
    tokenizer.save_pretrained(folder)
    model = copy.deepcopy(make_model("mrope"))
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    return folder
