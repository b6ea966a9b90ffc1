"""Training source of livecc-tiny's procedural clips, which are drawn from seeds on demand.

Training seeds are never negative; negative seeds are held out for evaluation.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from livecc_hf.captions.turns import spoken_text
from livecc_hf.modeling.grammar import FRAME_STEP_S, TURN_JOINT, tokenize
from livecc_hf.tiny.narration import DEFAULT_NARRATOR, narrator_verbs
from livecc_hf.tiny.samples import FRAME_SIZE_PX, MOODS, cut_window, list_clip, narration_clip

from ..dataset import parse_entry, register_source
from ..samples.narration import NarratedClip, encode_clip
from ..samples.sample import IGNORE_INDEX, EncodeOptions, Sample
from ..unusable import UnusableSample

if TYPE_CHECKING:
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

SEEDS_PER_ENTRY = 100_000
TASKS = {"list": 1, "narrate": 4, "caption": 4}  # with the shortest length of each


@dataclass(frozen=True)
class TinyEntry:
    """One part of a curriculum.

    Raises:
        ValueError: if a value is out of range.
    """

    samples: int = field(metadata={"help": "Number of samples."})
    task: str = field(
        default="narrate",
        metadata={"help": "'list' (name objects), 'narrate', or 'caption' (see the whole clip, then narrate it)."},
    )
    length: tuple[int, int] = field(
        default=(16, 28), metadata={"help": "Shortest and longest clip, in seconds; for 'list', in turns."}
    )
    group: int = field(
        default=16,
        metadata={"help": "Number of consecutive samples of the same length, so that batches have no padding."},
    )
    moods: tuple[str, ...] = field(
        default=("calm",), metadata={"help": "Kinds of scenes to narrate, used in rotation; see `MOODS`."}
    )
    narrator: str = field(
        default=DEFAULT_NARRATOR, metadata={"help": "The narrator, whose words differ; see `NARRATORS`."}
    )
    window_s: int = field(
        default=0,
        metadata={"help": "For 'caption': length of a random window of each clip, in seconds; 0 for all of it."},
    )
    frame_px: int = field(
        default=FRAME_SIZE_PX,
        metadata={"help": "Height and width of the frames in pixels, a multiple of the model's token size."},
    )

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}: expected one of {', '.join(TASKS)}")
        narrator_verbs(self.narrator)
        shortest = TASKS[self.task]
        low, high = self.length
        if not shortest <= low <= high:
            raise ValueError(
                f"length is {list(self.length)}: expected [low, high] with low >= {shortest} for {self.task!r}"
            )
        if self.window_s and not (self.task == "caption" and 0 < self.window_s <= low):
            raise ValueError(
                f"window_s is {self.window_s} for {self.task!r} and length {list(self.length)}: expected 0, or for "
                f"'caption' 1 to {low}"
            )
        if not 16 <= self.frame_px <= 1024:
            raise ValueError(f"frame_px is {self.frame_px}: expected 16 to 1024 pixels")
        if unknown := set(self.moods) - set(MOODS):
            raise ValueError(f"moods are unknown: {sorted(unknown)}; expected some of {', '.join(MOODS)}")
        if not 1 <= self.samples <= SEEDS_PER_ENTRY:
            raise ValueError(f"samples is {self.samples}: expected 1 to {SEEDS_PER_ENTRY}")


@dataclass(frozen=True)
class TinyItem:
    """A clip that is not drawn yet."""

    task: str
    seed: int
    length: int
    mood: str
    narrator: str = DEFAULT_NARRATOR
    window_s: int = 0
    frame_px: int = FRAME_SIZE_PX

    def encode(self, processor: StreamingProcessor, options: EncodeOptions) -> Sample:
        """Draw and tokenise the clip."""
        encode = encode_caption if self.task == "caption" else encode_clip
        return encode(self.draw(), processor, options)

    def count_tokens(self, processor: StreamingProcessor, options: EncodeOptions) -> int:
        """Return the sample's exact number of tokens, by encoding it, since drawing is cheap."""
        return self.encode(processor, options).n_tokens

    def clip(self, processor: StreamingProcessor, options: EncodeOptions) -> NarratedClip | None:
        """Draw the clip; `None` for 'caption', which is not a narration."""
        return None if self.task == "caption" else self.draw()

    def draw(self) -> NarratedClip:
        """Draw the clip, for any task."""
        if self.task == "list":
            n_first = 2 if self.length == 1 else 6
            clip = list_clip(self.seed, self.length, first_frames=n_first, size_px=self.frame_px)
        else:
            clip = narration_clip(self.seed, self.length, self.mood, self.narrator, self.frame_px)
        if self.window_s:
            clip = cut_window(clip, self.window_s, self.seed)
        return NarratedClip(torch.from_numpy(clip.frames), clip.timestamps_s, clip.words, query=clip.query)


class TinyPart:
    """The clips of an entry.

    Args:
        entry: the recipe's entry.
        block: index of the block of `SEEDS_PER_ENTRY` seeds from which the clips are drawn.
    """

    def __init__(self, entry: TinyEntry, block: int):
        self.entry = entry
        self.first = block * SEEDS_PER_ENTRY
        rng = random.Random(self.first)
        self.lengths = [rng.randint(*entry.length) for _ in range(0, entry.samples, entry.group)]

    def __len__(self) -> int:
        return self.entry.samples

    def __getitem__(self, row: int) -> TinyItem:
        entry = self.entry
        mood = entry.moods[row % len(entry.moods)]
        length = self.lengths[row // entry.group]
        return TinyItem(entry.task, self.first + row, length, mood, entry.narrator, entry.window_s, entry.frame_px)

    def origin(self, row: int) -> str:
        """Return the task and seed of an item, for messages."""
        return f"tiny {self.entry.task}, seed {self.first + row}"

    def fingerprint(self) -> str:
        """Return the entry and its first seed, as text."""
        # Leaves out the default frame size, so that runs started before `frame_px` existed can be resumed.
        return f"{self.entry} {self.first}".replace(f", frame_px={FRAME_SIZE_PX})", ")")


@register_source("tiny")
class TinySource:
    """Procedural clips; see `TinyEntry` for the keys of an entry."""

    def open(self, entry: dict[str, Any], seed: int) -> TinyPart:
        """Open an entry; `seed` is the block of seeds from which its clips are drawn."""
        return TinyPart(parse_entry(TinyEntry, entry, "tiny"), seed)


def encode_caption(clip: NarratedClip, processor: StreamingProcessor, options: EncodeOptions) -> Sample:
    """Encode a clip as a single turn: the whole clip as the prompt, and all of its words as the answer.

    This is how video language models are usually trained, for comparison. The prompt is the same as for the first turn
    of a stream, so that only the interleaving differs.

    Raises:
        UnusableSample: "too_many_tokens", if it exceeds `options.max_tokens`.
    """
    limits = {"min_pixels": options.min_pixels, "max_pixels": options.max_pixels}
    video_processor = processor.video_processor
    patches, grid = video_processor.frames_to_patches(
        clip.frames, **{name: value for name, value in limits.items() if value is not None}
    )
    prompt = caption_prompt_ids(processor, len(clip.frames), len(patches), clip.query)
    words = [word for _, _, word in clip.words]
    spoken = [*tokenize(processor.tokenizer, spoken_text(words, processor.find_grammar())), processor.end_id]
    newline = tokenize(processor.tokenizer, TURN_JOINT)[1:]
    input_ids = prompt + spoken + newline
    if options.max_tokens is not None and len(input_ids) > options.max_tokens:
        raise UnusableSample(
            "too_many_tokens",
            f"a caption of {len(input_ids)} tokens does not fit max_length={options.max_tokens}: captions are not cut",
        )
    labels = [IGNORE_INDEX] * len(prompt) + spoken + [IGNORE_INDEX] * len(newline)
    inputs = {
        "input_ids": torch.tensor(input_ids),
        "labels": torch.tensor(labels),
        "mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids([input_ids])[0]),
        "pixel_values_videos": patches,
        "video_grid_thw": grid,
    }
    return Sample(inputs, n_words=len(words))


def caption_prompt_ids(processor: StreamingProcessor, n_frames: int, n_patches: int, query: str | None) -> list[int]:
    """Return the tokens of a caption's prompt, up to the start of the answer.

    Args:
        processor: the model's processor.
        n_frames: number of frames, at 2 a second.
        n_patches: number of patches of these frames.
        query: the user's request; `None` for the processor's default.
    """
    n_tokens = n_patches // processor.video_processor.merge_size**2
    query = processor.default_query if query is None else query
    return processor.turn_ids(0.0, n_frames * FRAME_STEP_S, n_tokens, query, is_first=True)
