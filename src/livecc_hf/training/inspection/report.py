"""Prints and draws samples in a readable form, using only the tensors that the trainer gets."""

from __future__ import annotations

import os
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch

from livecc_hf.data.unusable import REASONS, UnusableSample
from livecc_hf.modeling.grammar import FRAME_STEP_S, IM_END, strip_continuation
from livecc_hf.rendering.contact_sheet import SheetCell, SheetLegend, SheetSection, contact_sheet_of_sections

from .reading import Media, Message, SampleTurn, TextRun, read_messages, sample_errors, turn_of

if TYPE_CHECKING:
    from PIL import Image
    from transformers import BaseImageProcessor

    from livecc_hf.data.samples.sample import Sample
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

LEGEND = (
    f"«supervised text»; other text is only read; {IM_END} is shown where it is supervised. "
    "Tokens of a turn: read + vision + supervised."
)
_SHEET_LEGEND = SheetLegend(
    "the frame, as the model sees it", "words of the turn, which are learned", "its turn, or size"
)
SHEET_FRAMES = 24  # maximum frames per sample
SHEET_SAMPLES = 16  # maximum samples on a sheet
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
# Placeholders for « and » until the text is wrapped; private-use characters, which texts show escaped.
_OPEN, _CLOSE = "\ue000", "\ue001"


def describe_sample(
    sample: Sample, processor: StreamingProcessor, origin: str = "", width: int = 120, bold: bool = False
) -> str:
    """Return a sample as text: its counters, then a line for each turn of commentary or message.

    Everything except the counters is read from `sample.model_inputs`; no text is cut.

    Args:
        sample: the sample.
        processor: the processor that made it.
        origin: the sample's source, such as ``folder/a.mp4 at 30.0 s``.
        width: maximum characters per line.
        bold: also mark supervised text with ANSI codes, for a terminal.

    Returns:
        The text; lines that start with ``ERROR`` name faults that make the sample unfit for training.
    """
    lines = textwrap.wrap(_header(sample, processor, origin), width, subsequent_indent="  ")
    lines += [f"  ERROR: {error}" for error in sample_errors(sample, processor)]
    messages, at = read_messages(sample, processor), 0
    while at < len(messages):
        turn = turn_of(messages, at, processor)
        if turn:
            lines += _turn_lines(turn, width)
        else:
            lines += _message_lines(messages[at], width)
        at += len(turn.messages) if turn else 1
    text = "\n".join(lines)
    opening, closing = (_BOLD + "«", "»" + _PLAIN) if bold else ("«", "»")
    return text.replace(_OPEN, opening).replace(_CLOSE, closing)


def sample_sheet(samples: Iterable[tuple[str, Sample]], processor: StreamingProcessor) -> Image.Image:
    """Return a picture of the model's input: frames rebuilt from patches, with the supervised words below.

    Args:
        samples: pairs of origin and sample.
        processor: the processor that made them.

    Returns:
        An RGB picture; a long sample shows its first and last frames and the number of omitted ones.

    Raises:
        ValueError: if there are no samples.
    """
    sections = [_section(origin, sample, processor) for origin, sample in samples]
    return contact_sheet_of_sections(sections, legend=_SHEET_LEGEND)


def inspect_samples(
    samples: Iterable[tuple[str, Sample | UnusableSample]],
    processor: StreamingProcessor,
    out_png: str | os.PathLike,
    width: int = 120,
    bold: bool = False,
) -> str:
    """Return samples as text with a summary, and write their contact sheet.

    Args:
        samples: pairs of origin and sample, or of origin and the error if it is unusable; consumed lazily.
        processor: the processor that made them.
        out_png: path of the contact sheet of the first 16 samples; its folder is created.
        width: maximum characters per line.
        bold: also mark supervised text with ANSI codes, for a terminal.

    Returns:
        The text.

    Raises:
        ValueError: if there are no samples.
    """
    blocks, summary = [LEGEND], _Summary()
    sections: list[SheetSection] = []
    for number, (origin, sample) in enumerate(samples):
        if isinstance(sample, UnusableSample):
            title = f"{origin}: UNUSABLE, {sample.reason} ({REASONS[sample.reason]})"
            blocks.append("\n".join(_wrapped(f"{title}: {sample}", width, "", "  ")))
            if number < SHEET_SAMPLES:
                sections.append(SheetSection(title, text=str(sample)))
        else:
            blocks.append(describe_sample(sample, processor, origin, width, bold))
            if number < SHEET_SAMPLES:
                sections.append(_section(origin, sample, processor))
        summary.add(sample, processor)
    if not sections:
        raise ValueError("got no samples to inspect: the dataset is empty")
    path = Path(out_png)
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet_of_sections(sections, legend=_SHEET_LEGEND).save(path)
    shown = "" if summary.n_samples <= SHEET_SAMPLES else f" (the first {SHEET_SAMPLES} of {summary.n_samples} samples)"
    return "\n\n".join([*blocks, summary.text(), f"contact sheet: {path}{shown}"])


def patches_to_frames(
    patches: torch.Tensor, grid_thw: Sequence[int] | torch.Tensor, video_processor: BaseImageProcessor
) -> torch.Tensor:
    """Return the frames rebuilt from patches, the inverse of `LiveCCVideoProcessor.frames_to_patches`.

    Args:
        patches: (t * h * w, 3 * 2 * 14 * 14), of one video or one image.
        grid_thw: t, h, w in patches, of shape (3,) or (1, 3).
        video_processor: the video or image processor that made them.

    Returns:
        uint8 (2 * t, 3, H, W), RGB; an image gives two equal frames.

    Raises:
        ValueError: if the patches' shape does not match the grid.
    """
    t, h, w = torch.as_tensor(grid_thw).flatten().tolist()
    size, merge, steps = video_processor.patch_size, video_processor.merge_size, video_processor.temporal_patch_size
    features = 3 * steps * size * size
    if tuple(patches.shape) != (t * h * w, features):
        raise ValueError(
            f"patches have shape {tuple(patches.shape)}: expected ({t * h * w}, {features}) for a grid of "
            f"{t} x {h} x {w} patches"
        )
    blocks = patches.detach().float().cpu().reshape(t, h // merge, w // merge, merge, merge, 3, steps, size, size)
    frames = blocks.permute(0, 6, 5, 1, 3, 7, 2, 4, 8).reshape(t * steps, 3, h * size, w * size)
    if patches.dtype == torch.uint8:
        return frames.to(torch.uint8)
    if video_processor.do_normalize:
        mean, std = (
            torch.tensor(getattr(video_processor, name))[:, None, None] for name in ("image_mean", "image_std")
        )
        frames = frames * std + mean
    if video_processor.do_rescale:
        frames = frames / video_processor.rescale_factor
    return frames.round().clamp(0, 255).to(torch.uint8)


def _header(sample: Sample, processor: StreamingProcessor, origin: str) -> str:
    inputs = sample.model_inputs
    supervised = int((inputs["labels"] != -100).sum())
    vision = int((inputs["mm_token_type_ids"] != 0).sum())
    start = f"{origin}: " if origin else ""
    tokens = f"{sample.n_tokens} tokens ({supervised} supervised, {vision} vision)"
    cut = f"{_count(sample.n_cut_words, 'word')}, {_count(sample.n_cut_turns, 'turn')}"
    silent = f"{_count(sample.n_silent_turns, 'silent turn')} dropped at the end"
    return f"{start}{tokens}, {_count(sample.n_words, 'word')}; cut: {cut}; {silent}"


def _turn_lines(turn: SampleTurn, width: int) -> list[str]:
    media = turn.media
    n_read = turn.n_tokens - media.n_tokens - turn.n_supervised
    span = f"{turn.start_s:>5.1f}-{turn.end_s:.1f} s"
    seen = f"{media.n_frames} frames {media.width_px}x{media.height_px} px"
    tokens = f"{turn.n_tokens} tokens ({n_read} + {media.n_tokens} + {turn.n_supervised})"
    start = f"  {span:<13}  {seen:<21}  {tokens:<28}  "
    if not turn.texts:
        return [start.rstrip()]
    return _run_lines(turn.texts, width, start, " " * len(start))


def _message_lines(message: Message, width: int) -> list[str]:
    of_them = f", {message.n_supervised} supervised" if message.n_supervised else ""
    lines = [f"  {message.role or '(outside of a message)'}: {_count(message.n_tokens, 'token')}{of_them}"]
    for part in message.parts:
        if isinstance(part, Media):
            frames = f"{part.n_frames} frames " if part.kind == "video" else ""
            size = f"{part.width_px}x{part.height_px} px"
            lines.append(f"      [{part.kind} {part.number}: {frames}{size}, {part.n_tokens} vision tokens]")
        else:
            lines += _run_lines([part], width, " " * 6, " " * 6)
    return lines


def _run_lines(runs: Sequence[TextRun], width: int, start: str, indent: str) -> list[str]:
    lines: list[str] = []
    for run in runs:
        text = f"{_OPEN}{run.shown}{_CLOSE}" if run.is_supervised else run.shown
        lines += _wrapped(text, width, indent if lines else start, indent)
    return lines


def _wrapped(text: str, width: int, start: str, indent: str) -> list[str]:
    """Wrap every line of a text, leaving at least 30 characters after the indent."""
    width = max(width, len(indent) + 30)
    lines: list[str] = []
    for line in text.split("\n"):
        first = indent if lines else start
        lines += textwrap.wrap(line, width, initial_indent=first, subsequent_indent=indent) or [first.rstrip()]
    return lines


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


class _CellOptions(TypedDict, total=False):
    """The fields of a `SheetCell` besides its frame."""

    time_s: float
    text: str
    note: str
    label: str


class _Summary:
    """Counts over all added samples."""

    def __init__(self):
        self.n_samples = 0
        self.reasons: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        self.n_tokens: list[int] = []

    def add(self, sample: Sample | UnusableSample, processor: StreamingProcessor) -> None:
        self.n_samples += 1
        if isinstance(sample, UnusableSample):
            self.reasons[sample.reason] += 1
            return
        messages = read_messages(sample, processor)
        frames = sum(turn.media.n_frames for at in range(len(messages)) if (turn := turn_of(messages, at, processor)))
        self.n_tokens.append(sample.n_tokens)
        self.totals.update(
            supervised=int((sample.model_inputs["labels"] != -100).sum()),
            vision=int((sample.model_inputs["mm_token_type_ids"] != 0).sum()),
            cut_words=sample.n_cut_words,
            cut_turns=sample.n_cut_turns,
            silent_turns=sample.n_silent_turns,
            frames=frames,
            narrated_words=sample.n_words if frames else 0,
            errors=len(sample_errors(sample, processor)),
        )

    def text(self) -> str:
        n, totals, tokens = self.n_tokens, self.totals, sum(self.n_tokens)
        lines = [f"{_count(self.n_samples, 'sample')}: {len(n)} usable, {self.n_samples - len(n)} unusable"]
        if n:
            lines += [
                f"  tokens a sample: min {min(n)}, median {statistics.median(n):g}, max {max(n)}",
                f"  supervised: {totals['supervised'] / tokens:.1%} of {tokens} tokens; vision: "
                f"{totals['vision'] / tokens:.1%}",
                f"  cut: {_count(totals['cut_words'], 'word')}, {_count(totals['cut_turns'], 'turn')}; "
                f"{_count(totals['silent_turns'], 'silent turn')} dropped at the end",
            ]
        if totals["frames"]:
            seconds = totals["frames"] * FRAME_STEP_S
            words = totals["narrated_words"]
            lines.append(f"  words per second: {words / seconds:.2f} ({words} words in {seconds:.1f} s of commentary)")
        if totals["errors"]:
            lines.append(f"  ERROR: {_count(totals['errors'], 'error')} above, marked ERROR; do not train on this")
        lines += [f"  unusable: {count} {reason} ({REASONS[reason]})" for reason, count in self.reasons.most_common()]
        return "\n".join(lines)


def _section(origin: str, sample: Sample, processor: StreamingProcessor) -> SheetSection:
    """Return a sample's section of the sheet."""
    messages = read_messages(sample, processor)
    shown: list[tuple[int, Media, int, _CellOptions]] = []  # number in the sample, medium, index in it
    texts: list[str] = []
    n_frames, at = 0, 0
    while at < len(messages):
        turn = turn_of(messages, at, processor)
        if turn:
            listed = [(turn.media, _turn_frames(turn))]
            texts += [run.shown for run in turn.texts if not run.is_supervised]
        else:
            parts = messages[at].parts
            listed = [(part, _media_frames(part)) for part in parts if isinstance(part, Media)]
            texts += _message_texts(messages[at])
        for media, frames in listed:
            shown += [(n_frames + index, media, index, options) for index, options in frames]
            n_frames += media.n_frames
        at += len(turn.messages) if turn else 1
    if len(shown) > SHEET_FRAMES:
        shown = shown[: SHEET_FRAMES - 4] + shown[-4:]
    cells, next_number = [], 0
    for number, media, index, options in shown:
        gap = f" (after {number - next_number} left out)" if number > next_number else ""
        options["label"] = (options.get("label") or f"{options['time_s']:.1f} s") + gap
        cells.append(SheetCell(_frame(media, index, sample, processor), **options))
        next_number = number + 1
    title = f"{origin or 'sample'}: {_count(sample.n_tokens, 'token')}, {_count(sample.n_words, 'word')}"
    if len(cells) < n_frames:
        title += f", {len(cells)} of {n_frames} frames shown ({n_frames - len(cells)} left out)"
    return SheetSection(title, cells, "\n".join(texts))


def _message_texts(message: Message) -> list[str]:
    runs = [part for part in message.parts if isinstance(part, TextRun)]
    if message.role == "system" or not runs:
        return []
    return [f"{message.role}: " + " ".join(f"«{run.shown}»" if run.is_supervised else run.shown for run in runs)]


def _turn_frames(turn: SampleTurn) -> list[tuple[int, _CellOptions]]:
    """Return a turn's frames for the sheet; a long turn shows its first three, and the last with the words."""
    n = turn.media.n_frames
    shown = [*range(n)] if n <= 4 else [0, 1, 2, n - 1]
    words = " ".join(run.text for run in turn.texts if run.is_supervised).replace(IM_END, "")
    frames: list[tuple[int, _CellOptions]]
    frames = [(index, {"time_s": turn.start_s + index * FRAME_STEP_S}) for index in shown]
    frames[-1][1]["text"] = strip_continuation(words) or "(silent)"
    frames[-1][1]["note"] = f"turn {turn.start_s:.1f}-{turn.end_s:.1f} s"
    return frames


def _media_frames(media: Media) -> list[tuple[int, _CellOptions]]:
    name, n = f"{media.kind} {media.number}", media.n_frames
    if media.kind == "image":
        return [(0, {"label": name, "note": f"{media.width_px}x{media.height_px} px"})]
    shown = [*range(n)] if n <= 8 else [*range(5), n - 3, n - 2, n - 1]
    return [(index, {"label": f"{name}, frame {index + 1} of {n}"}) for index in shown]


def _frame(media: Media, index: int, sample: Sample, processor: StreamingProcessor) -> torch.Tensor:
    """Rebuild one frame (3, H, W), from the patches of its pair of frames only."""
    maker = processor.video_processor if media.kind == "video" else processor.image_processor
    pixels = sample.model_inputs["pixel_values_videos" if media.kind == "video" else "pixel_values"]
    _, h, w = media.grid_thw
    pair, which = divmod(index, maker.temporal_patch_size)
    start = media.first_patch + pair * h * w
    return patches_to_frames(pixels[start : start + h * w], (1, h, w), maker)[which]
