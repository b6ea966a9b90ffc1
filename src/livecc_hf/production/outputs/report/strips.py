"""Shows a sample on the page: its pictures in a row, and below them, on the same time axis, its words and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....utils.text import counted
from .charts import Distribution
from .html import number, player_time, text
from .pictures import Picture, Strip, link_to
from .samples import ReportSample

_FACE_S = 0.48  # time from one score of a face to the next, as `active_speaker` samples them
_NEAR_S = 0.02  # largest time between a picture and the faces drawn on it
_LEAST_SCORE = 2.0  # smallest range of the chart of scores, up and down


def show_sample(
    sample: ReportSample,
    strip: Strip,
    folder: Path,
    measures: Sequence[tuple[str, float, Distribution, Mapping[str, float]]],
) -> str:
    """Return a sample as HTML.

    Args:
        sample: to show.
        strip: the sample's pictures.
        folder: of the page.
        measures: numbers to show as bars: name, value, distribution (for the range), and thresholds.
    """
    end_s = sample.end_s if sample.end_s is not None else strip.end_s
    link = link_to(sample.video, folder, sample.start_s, end_s if sample.is_clip else None)
    span = "" if end_s is None else f"{player_time(sample.start_s)} to {player_time(end_s)}"
    play = f'<a class="play" href="{text(link)}">▶ play</a>' if link else ""
    bars = "".join(_measure(*measure) for measure in measures)
    shown = {name for name, *_ in measures}
    others = {
        name.replace("_", " "): number(value) if isinstance(value, float) else value
        for name, value in sample.others.items()
        if name not in shown
    }
    chips = "".join(f"<span><i>{text(name)}</i> {text(value)}</span>" for name, value in others.items())
    head = f'<b>{text(sample.id)}</b><span class="soft">{span}</span>{play}'
    parts = [f'<p class="head">{head}</p>', f'<p class="facts">{bars}{chips}</p>' if bars or chips else ""]
    if end_s is None or not (strip.pictures or sample.words or sample.faces):
        fault = f'<p class="missing">No pictures: {text(strip.fault)}.</p>' if strip.fault else ""
        parts.append(fault + (f'<p class="said">{text(sample.text)}</p>' if sample.text else ""))
    else:
        parts.append(_timeline(sample, strip, end_s, folder))
    return f'<article class="sample">{"".join(parts)}</article>'


def _measure(name: str, value: float, item: Distribution, thresholds: Mapping[str, float]) -> str:
    """Return a number as a small bar, with lines at its thresholds."""
    low, high = item.span
    places = {key: min(max((at - low) / (high - low), 0), 1) * 100 for key, at in thresholds.items()}
    part = min(max((value - low) / (high - low), 0), 1) * 100
    limits = "".join(f'<s style="left:{place:.1f}%"></s>' for place in places.values())
    label = ", ".join(f"{key} {at:g}" for key, at in thresholds.items())
    return (
        f'<span class="measure"><i>{text(name.replace("_", " "))}</i> {number(float(value))}'
        f'<u><em style="width:{part:.1f}%"></em>{limits}</u>'
        f"{f'<i>{text(label)}</i>' if label else ''}</span>"
    )


def _timeline(sample: ReportSample, strip: Strip, end_s: float, folder: Path) -> str:
    n = max(len(strip.pictures), 1)
    if not strip.pictures:
        n = 8
        row = f'<p class="missing wide">No pictures: {text(strip.fault or "none were requested")}.</p>'
    else:
        row = "".join(_frame(sample, picture, end_s, folder) for picture in strip.pictures)
    parts = [row]
    if sample.words:
        parts.append(_speech(sample, end_s))
    if sample.faces:
        parts.append(_scores(sample, end_s))
    if sample.words:
        parts += _said(sample, end_s, n)
    below = ""
    if sample.faces:
        below = (
            "<p class='soft'>Bars: the score of each face, twice a second in the scored windows; above the line, the "
            "face speaks. Boxes: the faces at the time of the picture.</p>"
        )
    if not sample.words and sample.text:
        below += f'<p class="said">{text(sample.text)}</p>'
    return f'<div class="scroll"><div class="strip" style="--n:{n}">{"".join(parts)}</div></div>{below}'


def _frame(sample: ReportSample, picture: Picture, end_s: float, folder: Path) -> str:
    time = f"<time>{player_time(picture.time_s)}</time>"
    if picture.source is None:
        return f'<span class="frame none">no picture{time}</span>'
    faces = [face for face in sample.faces if abs(face["time_s"] - picture.time_s) < _NEAR_S]
    boxes = "".join(
        f'<rect class="{"speaks" if face["score"] > 0 else "still"}" x="{face["left"]:.4f}" y="{face["top"]:.4f}" '
        f'width="{face["right"] - face["left"]:.4f}" height="{face["bottom"] - face["top"]:.4f}"/>'
        for face in faces
    )
    if boxes:
        boxes = f'<svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg>'
    scores = "".join(
        f'<b style="left:{100 * face["left"]:.1f}%;top:{100 * face["top"]:.1f}%">{face["score"]:+.1f}</b>'
        for face in faces
    )
    label = f"At {player_time(picture.time_s)}" + (f", {counted(len(faces), 'face')}" if faces else "")
    width, height = picture.size_px
    image = f'<img src="{picture.source}" alt="{label}" width="{width}" height="{height}" decoding="async">'
    inner = f"{image}{boxes}{scores}{time}"
    link = link_to(sample.video, folder, picture.time_s, end_s if sample.is_clip else None)
    return f'<a class="frame" href="{text(link)}">{inner}</a>' if link else f'<span class="frame">{inner}</span>'


def _speech(sample: ReportSample, end_s: float) -> str:
    """Return a band that is dark where words are spoken."""
    length_s = end_s - sample.start_s
    path = "".join(
        f"M{(word['start_s'] - sample.start_s) / length_s * 1000:.1f} 0h"
        f"{max((word['end_s'] - word['start_s']) / length_s * 1000 - 0.6, 0.6):.1f}v8H"
        f"{(word['start_s'] - sample.start_s) / length_s * 1000:.1f}z"
        for word in sample.words
    )
    label = counted(len(sample.words), "word")
    return (
        f'<svg class="speech wide" viewBox="0 0 1000 8" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<path d="{path}"/></svg>'
    )


def _scores(sample: ReportSample, end_s: float) -> str:
    """Return bars that go up while a face speaks, and down while it does not."""
    length_s = end_s - sample.start_s
    most = max(_LEAST_SCORE, *(abs(face["score"]) for face in sample.faces))
    width = max(_FACE_S / length_s * 1000 * 0.9, 1.0)
    bars = []
    for face in sample.faces:
        height = 20 * abs(face["score"]) / most
        top, kind = (20 - height, "speaks") if face["score"] > 0 else (20.0, "still")
        place = (face["time_s"] - sample.start_s) / length_s * 1000
        bars.append(f'<rect class="{kind}" x="{place:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"/>')
    n_speaks = sum(face["score"] > 0 for face in sample.faces)
    label = f"{n_speaks} of {len(sample.faces)} scores above 0"
    return (
        f'<svg class="scores wide" viewBox="0 0 1000 40" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'{"".join(bars)}<path class="zero" d="M0 20H1000"/></svg>'
    )


def _said(sample: ReportSample, end_s: float, n: int) -> list[str]:
    """Return the words below each picture: those that start in its part of the time span."""
    parts: list[list[str]] = [[] for _ in range(n)]
    for word in sample.words:
        part = int((word["start_s"] - sample.start_s) / (end_s - sample.start_s) * n)
        parts[min(max(part, 0), n - 1)].append(word["word"])
    if sample.is_cut:
        last = max(number for number, words in enumerate(parts) if words)
        parts[last].append("…")
    return [f'<p class="said">{text(" ".join(words))}</p>' for words in parts]


def measures_of(
    values: Mapping[str, Any], items: Sequence[tuple[str, Distribution, Mapping[str, float]]]
) -> list[tuple[str, float, Distribution, Mapping[str, float]]]:
    """Return the numbers of a row that have a distribution, each with its distribution and thresholds."""
    return [
        (name, float(values[name]), item, thresholds)
        for name, item, thresholds in items
        if isinstance(values.get(name), int | float)
    ]
