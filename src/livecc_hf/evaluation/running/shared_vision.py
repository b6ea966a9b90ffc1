"""Answers several questions about one clip with a single prefill of the video, which comes first in the prompt.

Consecutive questions also share the prefill of text that they have in common after the video, such as subtitles.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from livecc_hf.modeling.grammar import (
    ANSWER_START,
    FRAMES_PER_SECOND,
    IM_START,
    TURN_FRAMES,
    TURN_JOINT,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    prompt_start,
    tokenize,
)
from livecc_hf.modeling.positions import PositionState, extend_positions
from livecc_hf.modeling.video_loading import frame_rate

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor


class CandidateError(ValueError):
    """Raised if candidates are not single, distinct tokens."""


@dataclass(frozen=True)
class Choice:
    """A model's choice among candidates.

    Attributes:
        answer: the most probable candidate.
        probabilities: probability of each candidate; their sum is 1.
    """

    answer: str
    probabilities: dict[str, float]


def candidate_ids(tokenizer, candidates: Sequence[str], lead: str) -> list[int]:
    """Return the token id of each candidate when it follows `lead`.

    Raises:
        CandidateError: if a candidate is not a single token, or two candidates are the same token.
    """
    ids = []
    for candidate in candidates:
        tokens = tokenize(tokenizer, f"{lead}{candidate}")
        last = tokenizer.decode(tokens[-1:]).strip()
        if last != candidate:
            raise CandidateError(
                f"the tokenizer splits the candidate {candidate!r} into several tokens (the last one is {last!r}): its "
                "probability cannot be read from one position"
            )
        ids.append(tokens[-1])
    if len(set(ids)) < len(ids):
        raise CandidateError(f"candidates {', '.join(candidates)} share a token: they cannot be told apart")
    return ids


class SharedVision:
    """The prefill of a clip, on which any number of independent questions can be asked.

    Args:
        model: the model, in evaluation mode.
        processor: the model's processor.
        frames: uint8 (T, 3, H, W), T even, in the model's input size.
        system: system prompt; default: that of the chat template.
        times_s: times of the T frames, in seconds as a player shows; default: two frames per second, from 0.

    Attributes:
        n_tokens: number of prefilled tokens, up to the end of the video.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: LiveCCForConditionalGeneration,
        processor: StreamingProcessor,
        frames: torch.Tensor,
        system: str | None = None,
        times_s: Sequence[float] | None = None,
    ):
        self._model, self._processor = model, processor
        self._backbone = processor.find_backbone()
        self._scheme = model.config.position_scheme
        self._merge = model.config.vision_config.spatial_merge_size
        if times_s is None:
            times_s = [number / FRAMES_PER_SECOND for number in range(len(frames))]
        patches, grid = processor.video_processor.frames_to_patches(frames, do_resize=False)
        [video_grid] = grid.tolist()
        ids = self._prefix_ids(video_grid, times_s, system)
        types = [2 * (token == processor.video_token_id) for token in ids]
        self._state = PositionState()
        grids = self._backbone.block_grids(video_grid)
        step = self._backbone.temporal_step(model.config.vision_config, TURN_FRAMES / frame_rate(times_s))
        positions = self._positions(types, grids, self._state, ids, step)
        self._cache = DynamicCache(config=model.config.text_config)
        # transformers 5.24 renamed the argument, and warns of the old name.
        parameters = inspect.signature(type(model).forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        device = model.device
        model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=self._with_text_row(positions, 0).to(device),
            pixel_values_videos=patches.to(device, model.dtype),
            video_grid_thw=grid.to(device),
            mm_token_type_ids=torch.tensor([types], device=device),
            **{self._cache_name: self._cache},
            use_cache=True,
            logits_to_keep=1,
        )
        self.n_tokens = len(ids)
        self._suffix: list[int] = []  # cached tokens after the video

    def _prefix_ids(self, grid: Sequence[int], times_s: Sequence[float], system: str | None) -> list[int]:
        """Return the token ids up to the end of the video, equal to those that the processor makes for a chat."""
        opening = prompt_start(self._backbone.system_prompt if system is None else system)
        video = self._backbone.video_text(VIDEO_PAD, grid, times_s)
        joined = self._backbone.join_vision(f"{VISION_START}{VIDEO_PAD}{VISION_END}")
        return self._encode(f"{opening}{IM_START}user\n{joined.replace(VIDEO_PAD, video)}")

    @torch.inference_mode()
    def choose(self, text: str, answer_prefix: str, candidates: Sequence[str], lead: str) -> Choice | None:
        """Return the most probable candidate as the next token; `None` if the logits are not finite.

        Args:
            text: the user's text after the video.
            answer_prefix: text that the answer is forced to begin with.
            candidates: the answers to choose from.
            lead: text that precedes a candidate when its token is looked up.

        Raises:
            CandidateError: see `candidate_ids`.
            ValueError: if `text` contains control tokens.
        """
        ids = candidate_ids(self._processor.tokenizer, candidates, lead)
        logits = self._prefill(self._suffix_ids(text, answer_prefix))[0][ids]
        if not torch.isfinite(logits).all():
            return None
        probabilities = torch.softmax(logits.double(), 0).tolist()
        best = int(logits.argmax())
        return Choice(candidates[best], dict(zip(candidates, probabilities, strict=True)))

    @torch.inference_mode()
    def generate(self, text: str, answer_prefix: str, max_new_tokens: int) -> str | None:
        """Return the greedily decoded answer without `answer_prefix`; `None` if the logits are not finite.

        Args:
            text: the user's text after the video.
            answer_prefix: text that the answer is forced to begin with.
            max_new_tokens: largest number of generated tokens.

        Raises:
            ValueError: if `text` contains control tokens.
        """
        tokens: list[int] = []
        logits, state = self._prefill(self._suffix_ids(text, answer_prefix))
        ends = {self._processor.end_id, *self._eos_ids()}
        while True:
            if not torch.isfinite(logits).any():
                return None
            token = int(logits.argmax())
            if token in ends or len(tokens) == max_new_tokens:
                break
            tokens.append(token)
            logits = self._forward([token], self._positions([0], [], state, [token]))
        return self._processor.decode_answer(tokens)

    def _eos_ids(self) -> list[int]:
        ids = self._model.generation_config.eos_token_id
        return [ids] if isinstance(ids, int) else list(ids or [])

    def _prefill(self, ids: list[int]) -> tuple[torch.Tensor, PositionState]:
        """Prefill a question, reusing the cached tokens that it has in common with the previous question.

        Returns:
            Logits of the next token, of shape (vocabulary,), and the position state after the question.
        """
        n_same = 0
        for token, cached in zip(ids[:-1], self._suffix, strict=False):
            if token != cached:
                break
            n_same += 1
        n_dropped = self._cache.get_seq_length() - self.n_tokens - n_same
        if n_dropped > 0:
            self._cache.crop(-n_dropped)
        self._suffix = self._suffix[:n_same]
        state = copy.copy(self._state)
        positions = self._positions([0] * len(ids), [], state, ids)
        return self._forward(ids[n_same:], positions[:, n_same:]), state

    def _forward(self, ids: list[int], positions: torch.Tensor) -> torch.Tensor:
        """Append tokens to the cache, and return the logits of the next token, of shape (vocabulary,)."""
        n_before = self._cache.get_seq_length()
        device = self._model.device
        outputs = self._model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=self._with_text_row(positions, n_before).to(device),
            **{self._cache_name: self._cache},
            use_cache=True,
            logits_to_keep=1,
        )
        self._suffix += ids
        return outputs.logits[0, -1].float()

    def _suffix_ids(self, text: str, answer_prefix: str) -> list[int]:
        return self._encode(f"{self._processor.checked_text(text)}{TURN_JOINT}{ANSWER_START}{answer_prefix}")

    def _positions(
        self,
        types: list[int],
        grids: Sequence[Sequence[int]],
        state: PositionState,
        ids: list[int],
        temporal_step: float = 1,
    ) -> torch.Tensor:
        ends = [token == self._processor.end_id for token in ids]
        steps = [temporal_step] * len(grids)
        return extend_positions(
            types, grids, state, self._scheme, message_ends=ends, merge_size=self._merge, temporal_steps=steps
        )

    @staticmethod
    def _with_text_row(positions: torch.Tensor, n_before: int) -> torch.Tensor:
        """Return positions (3, L) as (4, 1, L), with the text positions as first row, as the model expects them."""
        text_positions = torch.arange(n_before, n_before + positions.shape[1])
        return torch.cat([text_positions[None], positions])[:, None]

    def _encode(self, text: str) -> list[int]:
        return tokenize(self._processor.tokenizer, text)
