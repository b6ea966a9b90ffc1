"""What streams need of a model and of a processor; only for type checkers, so not published with a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch

from .attention import PackedBatch
from .grammar import Grammar
from .video_processing_livecc import LiveCCVideoProcessor


class ModelForStreams(Protocol):
    """The attributes of a model that streams use, such as `LiveCCForConditionalGeneration`.

    Attributes:
        config: has `position_scheme`, `text_config`, `vision_config` and the ids of vision tokens.
        generation_config: generation settings that a stream's options leave open.
        training: whether it is in training mode.
        model: the body, with a `language_model` and the vision tower, `visual`.
        lm_head: maps hidden states to logits.
        decode_step, packed_batch, read_file: see `StreamingMixin`.
    """

    config: Any
    generation_config: Any
    training: bool
    model: Any
    lm_head: torch.nn.Module
    decode_step: Callable | None
    packed_batch: type[PackedBatch]
    read_file: Callable[..., Iterable]

    def get_input_embeddings(self) -> torch.nn.Embedding:
        """Return the token embeddings."""


class ProcessorForStreams(Protocol):
    """The attributes of a processor that streams use, such as `StreamingProcessor`.

    Attributes:
        video_processor: resizes frames and cuts them into patches.
        default_query: the query of streams without one.
        backbone: name of the model's backbone.
    """

    video_processor: LiveCCVideoProcessor
    default_query: str
    backbone: str

    @property
    def end_id(self) -> int:
        """The id of the token that ends a message."""

    @property
    def continuation_id(self) -> int | None:
        """The id of `` ...``; `None` if the tokenizer has no such token."""

    @property
    def n_joint_tokens(self) -> int:
        """Number of tokens between an answer and the next message."""

    def find_grammar(self) -> Grammar:
        """Return the grammar by which a commentary is written as a chat."""

    def checked_text(self, text: str) -> str:
        """Return a user's text, or raise `ValueError` if it holds a control token."""

    @property
    def turn_prompt(self) -> Callable[..., tuple[list[int], int]]:
        """As `StreamingProcessor.turn_prompt`."""

    def question_ids(self, question: str) -> list[int]:
        """Return the tokens of a question, up to where its answer begins."""

    def decode_turn(self, token_ids: Sequence[int]) -> str:
        """Return the words of a turn's tokens."""

    def decode_answer(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer."""
