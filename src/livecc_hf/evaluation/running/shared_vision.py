"""Answers to questions on one clip that share its vision: the prompt is video first, so its pass is made once.

So is that of a text that questions begin with in common, such as subtitles, where they are asked one after the other.
"""

from __future__ import annotations

import copy
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
)
from livecc_hf.modeling.positions import PositionState, extend_positions
from livecc_hf.modeling.video_loading import frame_rate

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor


class CandidateError(ValueError):
    """Candidates that one token each cannot tell apart."""


@dataclass(frozen=True)
class Choice:
    """What a model chooses.

    Attributes:
        answer: the likeliest candidate.
        probabilities: of each candidate, adding up to 1.
    """

    answer: str
    probabilities: dict[str, float]


def candidate_ids(tokenizer, candidates: Sequence[str], lead: str) -> list[int]:
    """Return the token that says each candidate after a lead-in.

    Raises:
        CandidateError: if a candidate is no single token, or two are the same one.
    """
    ids = []
    for candidate in candidates:
        tokens = tokenizer(f"{lead}{candidate}", add_special_tokens=False)["input_ids"]
        said = tokenizer.decode(tokens[-1:]).strip()
        if said != candidate:
            raise CandidateError(
                f"the tokenizer says the candidate {candidate!r} with more than one token, the last of them {said!r}: "
                "its probability cannot be read off one position"
            )
        ids.append(tokens[-1])
    if len(set(ids)) < len(ids):
        raise CandidateError(f"candidates {', '.join(candidates)} share a token: they cannot be told apart")
    return ids


class SharedVision:
    """A clip that a model has seen, about which it can be asked any number of questions, each as if it were the first.

    Args:
        model: in evaluation mode.
        processor: its processor.
        frames: uint8 (T, 3, H, W), T even, in the size in which the model sees them.
        system: another system prompt than the chat template's.
        times_s: of the T frames, in seconds; default: two frames a second, from 0 on.
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
        device = model.device
        model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=self._with_text_row(positions, 0).to(device),
            pixel_values_videos=patches.to(device, model.dtype),
            video_grid_thw=grid.to(device),
            mm_token_type_ids=torch.tensor([types], device=device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.n_tokens = len(ids)
        self._asked: list[int] = []  # tokens after the video that are in the cache

    def _prefix_ids(self, grid: Sequence[int], times_s: Sequence[float], system: str | None) -> list[int]:
        """Return the tokens up to the end of the video, as a processor's call makes them for a conversation."""
        opening = prompt_start(self._backbone.system_prompt if system is None else system)
        # What counts frames by number takes milliseconds just as well.
        video = self._backbone.video_text(VIDEO_PAD, grid, 1000, [round(1000 * time) for time in times_s])
        joined = self._backbone.join_vision(f"{VISION_START}{VIDEO_PAD}{VISION_END}")
        return self._encode(f"{opening}{IM_START}user\n{joined.replace(VIDEO_PAD, video)}")

    def choose(self, text: str, answer_prefix: str, candidates: Sequence[str], lead: str) -> Choice | None:
        """Return which candidate the answer would go on with; `None` if the model's scores are not finite.

        Args:
            text: the user's text after the video.
            answer_prefix: what the answer begins with.
            candidates: to choose from.
            lead: the text before a candidate when its token is looked up.

        Raises:
            CandidateError: see `candidate_ids`.
        """
        ids = candidate_ids(self._processor.tokenizer, candidates, lead)
        logits = self._ask(text, answer_prefix)[ids]
        if not torch.isfinite(logits).all():
            return None
        probabilities = torch.softmax(logits.double(), 0).tolist()
        best = int(logits.argmax())
        return Choice(candidates[best], dict(zip(candidates, probabilities, strict=True)))

    @torch.inference_mode()
    def generate(self, text: str, answer_prefix: str, max_new_tokens: int) -> str | None:
        """Return the likeliest answer, token by token; `None` if the model's scores are not finite."""
        tokens: list[int] = []
        logits, state = self._read(self._suffix_ids(text, answer_prefix))
        ends = {self._processor.end_id, *self._end_ids()}
        while True:
            if not torch.isfinite(logits).any():
                return None
            token = int(logits.argmax())
            if token in ends or len(tokens) == max_new_tokens:
                break
            tokens.append(token)
            logits = self._run([token], self._positions([0], [], state, [token]))
        return self._processor.decode_answer(tokens)

    def _end_ids(self) -> list[int]:
        ids = self._model.generation_config.eos_token_id
        return [ids] if isinstance(ids, int) else list(ids or [])

    @torch.inference_mode()
    def _ask(self, text: str, answer_prefix: str) -> torch.Tensor:
        """Return the scores of the token after a question, of shape (vocabulary,)."""
        return self._read(self._suffix_ids(text, answer_prefix))[0]

    def _read(self, ids: list[int]) -> tuple[torch.Tensor, PositionState]:
        """Return the scores of the token after a question's tokens, and the positions' state there.

        What it begins with as the question before did, such as the video's subtitles, is in the cache already.
        """
        n_same = 0
        for ours, before in zip(ids[:-1], self._asked, strict=False):
            if ours != before:
                break
            n_same += 1
        n_new = self._cache.get_seq_length() - self.n_tokens - n_same
        if n_new > 0:
            self._cache.crop(-n_new)
        self._asked = self._asked[:n_same]
        state = copy.copy(self._state)
        positions = self._positions([0] * len(ids), [], state, ids)
        return self._run(ids[n_same:], positions[:, n_same:]), state

    def _run(self, ids: list[int], positions: torch.Tensor) -> torch.Tensor:
        n_before = self._cache.get_seq_length()
        device = self._model.device
        outputs = self._model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=self._with_text_row(positions, n_before).to(device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._asked += ids
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
        """Return positions (3, L) as the model takes them: (4, 1, L), the tokens' numbers first."""
        numbers = torch.arange(n_before, n_before + positions.shape[1])
        return torch.cat([numbers[None], positions])[:, None]

    def _encode(self, text: str) -> list[int]:
        return self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]
