"""Adds a gallery (a captioned clip and a sheet of its frames) and measured scores to a card."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..captions.writers import Caption
from ..checkpoints.card_sections import find_section, set_section
from ..checkpoints.cards import CARD_FILE, parse_card
from ..rendering.contact_sheet import SheetCell, SheetLegend, contact_sheet
from ..rendering.overlay import OverlayWriter, check_output
from ..utils.atomic import atomic_write
from ..utils.line_ends import line_end_of

if TYPE_CHECKING:
    import torch

    from ..modeling import CommentarySegment

CLIP_FILE, SHEET_FILE = "gallery.mp4", "gallery.png"
LONGEST_S = 30.0  # longer clips are cut to this
_SHEET_FRAMES, _MAX_WORDS_CHARS = 12, 200
_LIMITS = "\n## Limits"


@dataclass(frozen=True)
class _Turn:
    """The words of a turn, and its last frame (3, H, W)."""

    caption: Caption
    frame: torch.Tensor


def complete_card(
    folder: str | os.PathLike,
    clip: str | os.PathLike | None = None,
    scores: str | os.PathLike | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    query: str | None = None,
) -> list[Path]:
    """Add a gallery and scores to the card of a model's or adapter's folder, replacing those of an earlier call.

    Args:
        folder: folder with a model or adapter and its `README.md`.
        clip: a video; the folder's model comments on at most `LONGEST_S` seconds of it, with greedy decoding.
        scores: `scores.json` of `livecc evaluate score`, or the folder that holds it.
        start_s: start of the part of the clip to show, in seconds; default: the start of the clip.
        end_s: end of that part, in seconds; default: `LONGEST_S` after the start.
        query: query for the model; default: the model's default query.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: if the card, the clip or the scores do not exist.
        ValueError: if neither clip nor scores are given, the range is empty, a file cannot be read, or a section of the
            card has lost one of its comments.
        ModelLoadError: if the folder's model cannot be loaded.
    """
    folder = Path(folder)
    path = folder / CARD_FILE
    if clip is None and scores is None:
        raise ValueError("nothing to add to the card: give a clip (--clip VIDEO), scores (--scores DIR), or both")
    of_clip = {"--start": start_s, "--end": end_s, "--query": query}
    if clip is None and (idle := [flag for flag, value in of_clip.items() if value is not None]):
        raise ValueError(f"{' and '.join(idle)}: only with --clip; leave it out, or give a clip")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CARD_FILE}: expected a model's or adapter's folder with its card")
    card = parse_card(path)
    for name, is_given in (("scores", scores is not None), ("gallery", clip is not None)):
        try:
            if is_given:
                find_section(card.text, name)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    written = [path]
    if scores is not None:
        text = _scores_text(Path(scores))
        card.text = set_section(card.text, "scores", text, "## Scores\n\n", before=_LIMITS)
    if clip is not None:
        captions = _comment(folder, clip, start_s, end_s, query)
        words = " ".join(caption.text for caption in captions if caption.text) or "(silence)"
        shown = words if len(words) <= _MAX_WORDS_CHARS else words[:_MAX_WORDS_CHARS].rsplit(" ", 1)[0] + " ..."
        gallery = [
            {"text": shown, "output": {"url": CLIP_FILE}},
            {"text": "Frames and the words said over them", "output": {"url": SHEET_FILE}},
        ]
        others = [item for item in card.data.get("widget") or [] if not _is_gallery_item(item)]
        card.data["widget"] = [*gallery, *others]
        heading = re.search(r"^# .*\n", card.text, re.MULTILINE)
        card.text = set_section(card.text, "gallery", "<Gallery />", "", after=heading.end() if heading else 0)
        written += [folder / CLIP_FILE, folder / SHEET_FILE]
    path.write_text(str(card), encoding="utf-8", newline=line_end_of(path))
    return written


def _is_gallery_item(item: Any) -> bool:
    output = item.get("output") if isinstance(item, dict) else None
    return isinstance(output, dict) and output.get("url") in (CLIP_FILE, SHEET_FILE)


def _scores_text(source: Path) -> str:
    from ..evaluation.reporting.score_files import markdown, read_scores

    file = source if source.is_file() else source / "scores.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"--scores {source} has no scores.json: expected what livecc evaluate score --out writes"
        )
    return f"Measured by `livecc evaluate`.\n\n{markdown(read_scores(file), headline_only=True)}"


def _comment(
    folder: Path, clip: str | os.PathLike, start_s: float | None, end_s: float | None, query: str | None
) -> list[Caption]:
    """Let the folder's model comment on a clip, write the captioned clip and the sheet, and return the captions."""
    begin_s = start_s or 0.0
    if end_s is not None and end_s <= begin_s:
        raise ValueError(f"--start {begin_s:g} --end {end_s:g}: the range is empty; expected an end after the start")
    end_s = begin_s + LONGEST_S if end_s is None else min(end_s, begin_s + LONGEST_S)
    with atomic_write(folder / CLIP_FILE, keeps_suffix=True) as part:
        check_output(clip, part)
        turns = _turns(folder, clip, start_s, end_s, query)
        with OverlayWriter(clip, part, start_s, end_s) as writer:
            for turn in turns:
                writer.write(turn.caption)
    _sheet(turns).save(folder / SHEET_FILE, optimize=True)
    return [turn.caption for turn in turns]


def _turns(
    folder: Path, clip: str | os.PathLike, start_s: float | None, end_s: float, query: str | None
) -> list[_Turn]:
    from ..checkpoints.loading import load_model_and_processor
    from ..video.reader import iter_chunks, probe_video

    origin_s = probe_video(clip).clock_start_s  # before the model is loaded, to fail early on an unreadable clip
    model, processor, _ = load_model_and_processor(folder)
    options: dict[str, Any] = {"do_sample": False} | ({} if query is None else {"query": query})
    stream = model.start_stream(processor, **options)
    turns: list[_Turn] = []
    frame: torch.Tensor | None = None
    for chunk in iter_chunks(clip, start_s, end_s, origin_s=origin_s):
        frame = chunk.frames[-1]
        turns += _turns_at(frame, stream.push(chunk.frames, chunk.timestamps_s))
    if frame is not None:
        turns += _turns_at(frame, stream.finish())
    if not turns:
        raise ValueError(f"{clip} has no frames between --start and --end, so there is nothing to comment on")
    return turns


def _turns_at(frame: torch.Tensor, segments: Iterable[CommentarySegment]) -> list[_Turn]:
    """Return segments as turns whose last frame is `frame`."""
    return [_Turn(Caption(segment.start_s, segment.end_s, segment.text), frame) for segment in segments]


def _sheet(turns: list[_Turn]) -> Any:
    step = max(1, -(-len(turns) // _SHEET_FRAMES))
    cells = []
    for at in range(0, len(turns), step):
        group = turns[at : at + step]
        words = " ".join(turn.caption.text for turn in group if turn.caption.text)
        cells.append(SheetCell(group[-1].frame, group[-1].caption.end_s, words))
    return contact_sheet(cells, columns=4, legend=SheetLegend(text="what the model says up to this frame"))
