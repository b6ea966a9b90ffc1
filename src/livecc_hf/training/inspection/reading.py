"""Parses a sample's tensors into messages, turns, media and texts, and checks their consistency."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import torch

from livecc_hf.data.samples.sample import IGNORE_INDEX
from livecc_hf.modeling.grammar import IM_END, IM_START, VISION_END, VISION_START

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

    from livecc_hf.data.samples.sample import Sample
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

_TIME = re.compile(r"Time=(\d+\.\d)-(\d+\.\d)s")
_KINDS = {1: "image", 2: "video"}
_INPUTS = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}
_MARKS_SHOWN = 5  # maximum number of wrong labels listed


@dataclass(frozen=True)
class TextRun:
    """Consecutive text of one message, either fully supervised or fully unsupervised.

    Attributes:
        text: decoded by the tokenizer.
        is_supervised: whether its tokens are in the loss.
    """

    text: str
    is_supervised: bool

    @property
    def shown(self) -> str:
        """The text with unprintable characters and a final newline escaped."""
        text = self.text
        last = "\\n" if text.endswith("\n") else ""
        text = text.removesuffix("\n")
        return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text) + last


@dataclass(frozen=True)
class Media:
    """A video, the frames of a turn, or an image, as passed to the model.

    Attributes:
        kind: `"image"` or `"video"`.
        number: position among the sample's media of this kind, from 1.
        grid_thw: t, h, w in patches.
        n_tokens: tokens in the sequence.
        first_patch: index of its first patch in the sample's pixel values.
        n_frames: number of frames; 1 for an image.
        width_px: width of a frame in pixels, as resized.
        height_px: height of a frame in pixels, as resized.
    """

    kind: str
    number: int
    grid_thw: tuple[int, int, int]
    n_tokens: int
    first_patch: int
    n_frames: int
    width_px: int
    height_px: int


@dataclass
class Message:
    """One message of the conversation.

    Attributes:
        role: `"system"`, `"user"`, `"assistant"`; empty for tokens before the first message.
        parts: texts and media in order, without delimiter tokens.
        n_tokens: all tokens, from `<|im_start|>` up to the next one.
        n_supervised: supervised tokens.
    """

    role: str
    parts: list[TextRun | Media] = field(default_factory=list)
    n_tokens: int = 0
    n_supervised: int = 0


@dataclass(frozen=True)
class SampleTurn:
    """One turn of a commentary: its frames and its text.

    Attributes:
        start_s: start in seconds from the stream's start, as in the prompt.
        end_s: end in seconds from the stream's start.
        media: the turn's frames.
        texts: the query, if the turn has one, then the answer.
        messages: the turn's user message and, if present, the answer.
    """

    start_s: float
    end_s: float
    media: Media
    texts: list[TextRun]
    messages: list[Message]

    @property
    def n_tokens(self) -> int:
        """All tokens of the turn."""
        return sum(message.n_tokens for message in self.messages)

    @property
    def n_supervised(self) -> int:
        """Supervised tokens of the turn."""
        return sum(message.n_supervised for message in self.messages)


def read_messages(sample: Sample, processor: StreamingProcessor) -> list[Message]:
    """Return the messages of the conversation, parsed from its tokens.

    Args:
        sample: the sample; :func:`sample_errors` checks its labels.
        processor: the processor that made it.
    """
    inputs = sample.model_inputs
    ids = inputs["input_ids"].tolist()
    # Derived from the tokens, since mm_token_type_ids may be wrong.
    kinds = _token_kinds(inputs["input_ids"], processor).tolist()
    supervised = (inputs["labels"] != IGNORE_INDEX).tolist()
    start_id = processor.tokenizer.convert_tokens_to_ids(IM_START)
    starts = [i for i, token in enumerate(ids) if token == start_id]
    bounds = sorted({0, *starts, len(ids)})
    grids = _media_of(inputs, processor)
    messages = []
    for begin, end in pairwise(bounds):
        message = Message("", n_tokens=end - begin, n_supervised=sum(supervised[begin:end]))
        for (kind, is_supervised), group in groupby(range(begin, end), key=lambda i: (kinds[i], supervised[i])):
            run = list(group)
            if kind:
                if grids[_KINDS[kind]]:
                    message.parts.append(_with_tokens(grids[_KINDS[kind]].pop(0), len(run)))
            else:
                text = processor.tokenizer.decode([ids[i] for i in run], clean_up_tokenization_spaces=False)
                message.parts.append(TextRun(text, is_supervised))
        _take_marks(message)
        _join_blocks(message)
        messages.append(message)
    return messages


def turn_of(messages: Sequence[Message], at: int, processor: StreamingProcessor) -> SampleTurn | None:
    """Return the commentary turn that begins at message `at`, or `None` for an ordinary message.

    Args:
        messages: the conversation's messages.
        at: index of the message.
        processor: the processor that made them.
    """
    parts = messages[at].parts
    if messages[at].role != "user" or len(parts) < 2 or not isinstance(parts[0], TextRun):
        return None
    if not isinstance(parts[1], Media) or parts[1].kind != "video":
        return None
    time = _TIME.match(parts[0].text)
    if not time:
        return None
    [label, *_] = processor.find_backbone().vision_labels(parts[1].grid_thw[0], float(time[1]))
    if parts[0].text != time[0] + label:
        return None
    own = [messages[at]]
    own += [message for message in messages[at + 1 : at + 2] if message.role == "assistant"]
    texts = [part for message in own for part in message.parts if isinstance(part, TextRun)][1:]
    if any(isinstance(part, Media) for message in own for part in message.parts if part is not parts[1]):
        return None
    return SampleTurn(float(time[1]), float(time[2]), parts[1], texts, own)


def sample_errors(sample: Sample, processor: StreamingProcessor) -> list[str]:
    """Return the errors in a sample's tensors; empty if there are none.

    Supervised labels must equal the tokens at their positions (the loss shifts them), at least one text token and no
    vision token must be supervised, and tokens, token types, grids and patches must be consistent.
    """
    inputs = sample.model_inputs
    ids, labels, types = (inputs[name] for name in ("input_ids", "labels", "mm_token_type_ids"))
    kept = labels != IGNORE_INDEX
    kinds = _token_kinds(ids, processor)
    errors = []
    wrong = (kept & (labels != ids)).nonzero().flatten().tolist()
    if wrong:
        marks = [
            f"token {i} is {_token(ids[i], processor)} but its label {_token(labels[i], processor)}"
            for i in wrong[:_MARKS_SHOWN]
        ]
        more = f", ... and {len(wrong) - _MARKS_SHOWN} more" if len(wrong) > _MARKS_SHOWN else ""
        errors.append(f"{len(wrong)} labels differ from the tokens at their positions: {', '.join(marks)}{more}")
    if not kept.any():
        errors.append("no token is supervised: nothing to learn")
    if n := int((kept & (kinds != 0)).sum()):
        errors.append(f"{n} vision tokens are supervised")
    if n := int((types != kinds).sum()):
        errors.append(f"{n} of {len(ids)} mm_token_type_ids do not fit their tokens (0 text, 1 image, 2 video)")
    for number, kind in _KINDS.items():
        errors += _media_errors(inputs, kind, (kinds == number), processor)
    return errors


def _media_errors(inputs: dict, kind: str, places: torch.Tensor, processor: StreamingProcessor) -> list[str]:
    """Compare the vision tokens of one kind with their grids and patches."""
    pixels_name, grid_name = _INPUTS[kind]
    grids = inputs[grid_name].prod(1).tolist() if grid_name in inputs else []
    n_patches = len(inputs[pixels_name]) if pixels_name in inputs else 0
    merged = _maker(processor, kind).merge_size ** 2
    blocks = inputs[grid_name].tolist() if grid_name in inputs else []
    if kind == "video":
        blocks = [block for grid in blocks for block in processor.find_backbone().block_grids(grid)]
    runs = [len(list(run)) for is_vision, run in groupby(places.tolist()) if is_vision]
    wanted = [math.prod(block) // merged for block in blocks]
    errors = []
    if runs != wanted:
        errors.append(f"{kind} tokens come in runs of {_listed(runs)} but {grid_name} asks for {_listed(wanted)}")
    if n_patches != sum(grids):
        errors.append(f"{pixels_name} holds {n_patches} patches but {grid_name} asks for {sum(grids)}")
    return errors


def _listed(numbers: list[int]) -> str:
    more = f", ... and {len(numbers) - 20} more" if len(numbers) > 20 else ""
    return (", ".join(map(str, numbers[:20])) or "none") + more


def _token(token: torch.Tensor, processor: StreamingProcessor) -> str:
    token_id = int(token)
    if not 0 <= token_id < len(processor.tokenizer):
        return f"{token_id} (no token)"
    return f"{token_id} {processor.tokenizer.decode([token_id])!r}"


def _token_kinds(ids: torch.Tensor, processor: StreamingProcessor) -> torch.Tensor:
    """Return 0 for text, 1 for image and 2 for video tokens, of shape (L,)."""
    return (ids == processor.image_token_id).long() + 2 * (ids == processor.video_token_id).long()


def _maker(processor: StreamingProcessor, kind: str) -> BaseImageProcessor:
    return processor.video_processor if kind == "video" else processor.image_processor


def _media_of(inputs: dict, processor: StreamingProcessor) -> dict[str, list[Media]]:
    """Return the vision blocks of the sample's images and videos in order, with `n_tokens` 0."""
    media: dict[str, list[Media]] = {}
    for kind, (_, grid_name) in _INPUTS.items():
        maker, first_patch, media[kind] = _maker(processor, kind), 0, []
        grids = inputs[grid_name].tolist() if grid_name in inputs else []
        for number, grid in enumerate(grids, 1):
            for t, h, w in processor.find_backbone().block_grids(grid) if kind == "video" else [grid]:
                n_frames = t * maker.temporal_patch_size if kind == "video" else 1
                size_px = (w * maker.patch_size, h * maker.patch_size)
                media[kind].append(Media(kind, number, (t, h, w), 0, first_patch, n_frames, *size_px))
                first_patch += t * h * w
    return media


def _with_tokens(media: Media, n_tokens: int) -> Media:
    return Media(**(vars(media) | {"n_tokens": n_tokens}))


def _take_marks(message: Message) -> None:
    """Set the role from the first text, and strip delimiter tokens from unsupervised texts."""
    parts = []
    for part in message.parts:
        if isinstance(part, TextRun) and not part.is_supervised:
            text = part.text
            if text.startswith(IM_START):
                message.role, _, text = text.removeprefix(IM_START).partition("\n")
            text = text.removesuffix("\n").removesuffix(IM_END).removesuffix(VISION_START).removeprefix(VISION_END)
            part = TextRun(text, False)
        if isinstance(part, Media) or part.is_supervised or part.text.strip("\n"):
            parts.append(part)
    message.parts = parts


def _join_blocks(message: Message) -> None:
    """Merge a video's vision blocks into one `Media`, dropping the labels between them."""
    parts: list[TextRun | Media] = []
    for part in message.parts:
        last = next((other for other in reversed(parts[-2:]) if isinstance(other, Media)), None)
        if not isinstance(part, Media) or last is None or (part.kind, part.number) != (last.kind, last.number):
            parts.append(part)
            continue
        if isinstance(parts[-1], TextRun):
            parts.pop()
        t, h, w = last.grid_thw
        parts[-1] = replace(
            last,
            grid_thw=(t + part.grid_thw[0], h, w),
            n_tokens=last.n_tokens + part.n_tokens,
            n_frames=last.n_frames + part.n_frames,
        )
    message.parts = parts
