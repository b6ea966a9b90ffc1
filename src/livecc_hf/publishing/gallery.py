"""Adds to a card: a clip with the model's words, a sheet of its frames, and measured scores."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..captions.writers import Caption
from ..checkpoints.card_sections import set_section
from ..checkpoints.cards import CARD_FILE, parse_card
from ..rendering.contact_sheet import SheetCell, SheetLegend, contact_sheet
from ..rendering.overlay import OverlayWriter, check_output
from ..utils.atomic import replaced_when_done

if TYPE_CHECKING:
    import torch

    from ..modeling import CommentarySegment

CLIP_FILE, SHEET_FILE = "gallery.mp4", "gallery.png"
LONGEST_S = 30.0  # a longer clip is cut
_SHEET_FRAMES, _WORDS_SHOWN = 12, 200
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
    """Put a gallery and scores into the card of a model's or adapter's folder, in place of those of an earlier call.

    Args:
        folder: with a `README.md`.
        clip: a video; the folder's model comments on its first `LONGEST_S` seconds, greedily.
        scores: `scores.json` of `livecc evaluate score`, or the folder that holds it.
        start_s, end_s: the part of the clip to show, in seconds.
        query: of the viewer; default: the model's.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: if there is no card, clip or file of scores.
        ValueError: if neither clip nor scores are given, the range is empty, or one of them cannot be read.
        ModelLoadError: if the folder holds no model that loads.
    """
    folder = Path(folder)
    path = folder / CARD_FILE
    if clip is None and scores is None:
        raise ValueError("nothing to put into the card: name a clip (--clip VIDEO), scores (--scores DIR), or both")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CARD_FILE}: expected a model's or adapter's folder with its card")
    card = parse_card(path)
    written = [path]
    if scores is not None:
        text = _scores_text(Path(scores))
        card.text = set_section(card.text, "scores", text, "## Scores\n\n", before=_LIMITS)
    if clip is not None:
        captions = _comment(folder, clip, start_s, end_s, query)
        words = " ".join(caption.text for caption in captions if caption.text) or "(silence)"
        shown = words if len(words) <= _WORDS_SHOWN else words[:_WORDS_SHOWN].rsplit(" ", 1)[0] + " ..."
        ours = [
            {"text": shown, "output": {"url": CLIP_FILE}},
            {"text": "Frames and the words said over them", "output": {"url": SHEET_FILE}},
        ]
        others = [item for item in card.data.get("widget") or [] if not _is_ours(item)]
        card.data["widget"] = [*ours, *others]
        first = re.search(r"^# .*\n", card.text, re.MULTILINE)
        card.text = set_section(card.text, "gallery", "<Gallery />", "", after=first.end() if first else 0)
        written += [folder / CLIP_FILE, folder / SHEET_FILE]
    path.write_text(str(card), encoding="utf-8")
    return written


def _is_ours(item: Any) -> bool:
    output = item.get("output") if isinstance(item, dict) else None
    return isinstance(output, dict) and output.get("url") in (CLIP_FILE, SHEET_FILE)


def _scores_text(source: Path) -> str:
    from ..evaluation.reporting.score_files import markdown, read_scores

    source = source / "scores.json" if source.is_dir() else source
    return f"Measured by `livecc evaluate`.\n\n{markdown(read_scores(source), headline_only=True)}"


def _comment(
    folder: Path, clip: str | os.PathLike, start_s: float | None, end_s: float | None, query: str | None
) -> list[Caption]:
    """Let the folder's model comment on a clip; write the captioned copy and the sheet."""
    begin_s = start_s or 0.0
    if end_s is not None and end_s <= begin_s:
        raise ValueError(f"--start {begin_s:g} --end {end_s:g}: the range is empty; expected an end after the start")
    end_s = begin_s + LONGEST_S if end_s is None else min(end_s, begin_s + LONGEST_S)
    with replaced_when_done(folder / CLIP_FILE, keeps_suffix=True) as part:
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

    origin_s = probe_video(clip).clock_start_s  # before the model is loaded: a clip that cannot be read ends it here
    model, processor, _ = load_model_and_processor(folder)
    options: dict[str, Any] = {"do_sample": False} | ({} if query is None else {"query": query})
    stream = model.start_stream(processor, **options)
    turns: list[_Turn] = []
    frame: torch.Tensor | None = None
    for chunk in iter_chunks(clip, start_s, end_s, origin_s=origin_s):
        frame = chunk.frames[-1]
        turns += _over(frame, stream.push(chunk.frames, chunk.timestamps_s))
    if frame is not None:
        turns += _over(frame, stream.finish())
    if not turns:
        raise ValueError(f"{clip}: nothing of it lies in the range, so there is nothing to comment on")
    return turns


def _over(frame: torch.Tensor, segments: Iterable[CommentarySegment]) -> list[_Turn]:
    """Return the turns of these segments, over a frame."""
    return [_Turn(Caption(segment.start_s, segment.end_s, segment.text), frame) for segment in segments]


def _sheet(turns: list[_Turn]) -> Any:
    step = max(1, -(-len(turns) // _SHEET_FRAMES))
    cells = []
    for at in range(0, len(turns), step):
        group = turns[at : at + step]
        words = " ".join(turn.caption.text for turn in group if turn.caption.text)
        cells.append(SheetCell(group[-1].frame, group[-1].caption.end_s, words))
    return contact_sheet(cells, columns=4, legend=SheetLegend(text="what the model says up to it"))
