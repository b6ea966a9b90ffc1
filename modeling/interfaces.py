"""What streams ask of a model and of a processor: for type checkers, so no model's folder carries it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch

from .grammar import Grammar
from .video_processing_livecc import LiveCCVideoProcessor


class ModelForStreams(Protocol):
    """What streams ask of a model, such as `LiveCCForConditionalGeneration`.

    Attributes:
        config: with `position_scheme`, `text_config`, `vision_config` and the ids of vision tokens.
        generation_config: how tokens are chosen where a stream's options do not say.
        training: whether it is in training mode.
        model: the body, which has a `language_model` and a vision tower, `visual`.
        lm_head: makes logits of hidden states.
        decode_step, attend_causal, read_file: see `StreamingMixin`.
    """

    config: Any
    generation_config: Any
    training: bool
    model: Any
    lm_head: torch.nn.Module
    decode_step: Callable | None
    attend_causal: Callable | None
    read_file: Callable[..., Iterable]

    def get_input_embeddings(self) -> torch.nn.Embedding:
        """Return the embeddings of tokens."""


class ProcessorForStreams(Protocol):
    """What streams ask of a processor, such as `StreamingProcessor`.

    Attributes:
        video_processor: resizes frames and cuts them into patches.
        default_query: what is asked where a stream's options do not say.
        backbone: of the model that it is for.
    """

    video_processor: LiveCCVideoProcessor
    default_query: str
    backbone: str

    @property
    def end_id(self) -> int:
        """The id of the token that ends a message."""

    @property
    def continuation_id(self) -> int | None:
        """The id of `` ...``; `None` where the tokenizer has no such token."""

    @property
    def n_joint_tokens(self) -> int:
        """How many tokens stand between an answer and the next message."""

    def find_grammar(self) -> Grammar:
        """Return how a commentary is written as a chat."""

    def checked_text(self, text: str) -> str:
        """Return a text of a user's, or raise `ValueError` where it holds a control token."""

    @property
    def turn_prompt(self) -> Callable[..., tuple[list[int], int]]:
        """As `StreamingProcessor.turn_prompt`."""

    def question_ids(self, question: str) -> list[int]:
        """Return the tokens of a question up to its answer."""

    def decode_turn(self, token_ids: Sequence[int]) -> str:
        """Return the words that a turn's tokens say."""

    def decode_answer(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer."""
