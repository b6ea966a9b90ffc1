"""What a stream's commentary on the small world is compared with: a captioning model used live, and the narrator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from livecc_hf.captions.turns import assign_words, split_turns
from livecc_hf.data.sources.tiny import caption_prompt_ids
from livecc_hf.modeling.grammar import FRAME_STEP_S
from livecc_hf.tiny.narration import narrate

from .commentary import CLIP_S
from .scoring import SpokenTurn

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor
    from livecc_hf.tiny.scene import Event

CAPTION_TOKENS = 128


@torch.no_grad()
def caption(
    model: LiveCCForConditionalGeneration, processor: StreamingProcessor, frames: torch.Tensor, max_new_tokens: int
) -> str:
    """Return a model's greedy caption of some frames, uint8 (T, 3, H, W) at 2 a second."""
    patches, grid = processor.video_processor.frames_to_patches(frames)
    ids = torch.tensor([caption_prompt_ids(processor, len(frames), len(patches), None)])
    answer = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=torch.tensor(processor.create_mm_token_type_ids(ids.tolist())),
        pixel_values_videos=patches,
        video_grid_thw=grid,
        max_new_tokens=max_new_tokens,
        eos_token_id=processor.end_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        do_sample=False,
        repetition_penalty=1.0,
    )
    return processor.decode_turn(answer[0, ids.shape[1] :].tolist())


def caption_turns(
    model: LiveCCForConditionalGeneration,
    processor: StreamingProcessor,
    frames: torch.Tensor,
    window_s: int,
    every_s: int,
) -> list[SpokenTurn]:
    """Use a captioning model live: at regular times it captions the last seconds.

    Args:
        model: trained on captions.
        processor: its processor.
        frames: a clip at 2 frames a second, uint8 (T, 3, H, W).
        window_s: seconds that each caption is about.
        every_s: seconds between two captions. If windows overlap, a sentence counts as spoken only if the caption
            before did not have it.
    """
    window, step = (round(seconds / FRAME_STEP_S) for seconds in (window_s, every_s))
    turns: list[SpokenTurn] = []
    before: Counter[str] = Counter()
    for end in range(window, len(frames) + 1, step):
        sentences = caption(model, processor, frames[end - window : end], CAPTION_TOKENS).split(". ")
        sentences = [sentence.rstrip(".") for sentence in sentences if sentence]
        told = Counter(before) if window > step else Counter()
        fresh = []
        for sentence in sentences:
            if told[sentence]:
                told[sentence] -= 1
            else:
                fresh.append(sentence + ".")
        before = Counter(sentences)
        turns.append(SpokenTurn((end - 1) * FRAME_STEP_S, " ".join(fresh)))
    return turns


def narrator_turns(events: Sequence[Event]) -> list[SpokenTurn]:
    """Return the narrator's own words on a clip of `CLIP_S` seconds in turns, the best that a model can learn."""
    ends_s = [span.end_s - FRAME_STEP_S for span in split_turns(round(CLIP_S / FRAME_STEP_S))]
    spoken = assign_words(narrate(list(events), CLIP_S), ends_s)[0]
    return [SpokenTurn(seen_s, " ".join(turn)) for seen_s, turn in zip(ends_s, spoken, strict=True)]
