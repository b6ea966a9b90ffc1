"""Writes a page for a reader: figures with charts, timelines of commentaries, and verdicts to check and overrule."""

from __future__ import annotations

import hashlib
import html
import json
import os
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from livecc_hf.utils.atomic import replaced_when_done
from livecc_hf.utils.extras import require_extra

from ..predictions.file import RowSet
from ..predictions.rows import CommentaryRow, Row, SpokenSpan, VerdictRow
from ..scorers.figures import PERCENT, Figure, Score
from ..scorers.win_rate import both_orders
from ..suites import SUITES
from .charts import charts_of
from .thumbnails import Thumbnail, Thumbnails, no_thumbnails

_SECOND_PX = 46
_TIMELINES, _STRIP_FRAMES = 12, 6
_TIMELINE_FRAME_S, _TIMELINE_FRAMES = 2.2, 120  # a picture is about as wide as two seconds


def write_page(
    path: str | os.PathLike,
    scores: Sequence[Score],
    sets: Sequence[RowSet[Row]] = (),
    thumbnails: Thumbnails = no_thumbnails,
    references: dict[str, str] | None = None,
) -> None:
    """Write the page as one self-contained file.

    Args:
        path: of the page.
        scores: in order.
        sets: the scored rows; commentaries with times get timelines, and verdicts with both texts are shown.
        thumbnails: makes pictures of a clip.
        references: people's words, by key; default: those in the commentaries.

    Raises:
        ImportError: if matplotlib is not installed.
        OSError: if it cannot be written.
    """
    require_extra("evaluate", "the report", "matplotlib")
    sections = [f"<h1>Evaluation</h1>{_summary(scores)}", *map(_score_section, scores)]
    for rows in sets:
        if rows.header.layout == "commentary" and any(row.turns for row in rows.of(CommentaryRow).rows):
            sections.append(_timelines(rows.of(CommentaryRow), thumbnails))
    sections += _verdicts(sets, thumbnails, references or {})
    page = files("livecc_hf.evaluation.reporting") / "page"
    style, script = ((page / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Evaluation</title>'
        f"<style>{style}</style></head><body>"
        + "".join(f"<section>{section}</section>" for section in sections)
        + f"<script>{script}</script></body></html>"
    )
    with replaced_when_done(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")


def _title(score: Score) -> str:
    return SUITES[score.suite].title if score.suite in SUITES else score.suite


def _summary(scores: Sequence[Score]) -> str:
    rows = [
        [_title(score), score.subject, score.protocol or "", *_cells(item)]
        for score in scores
        for item in score.figures[: score.n_headline]
    ]
    return _table(["benchmark", "model", "protocol", *_HEADS], rows)


_HEADS = ("figure", "value", "± SE", "N", "invalid", "missing", "constant answer")


def _score_section(score: Score) -> str:
    details = {name: value for name, value in score.details.items() if value not in (None, "", {})}
    shown = json.dumps(details, indent=1, ensure_ascii=False)
    return (
        f"<h2>{_text(_title(score))}: {_text(score.subject)}</h2>"
        f'<p class="note">{_text(score.source)}, protocol {_text(score.protocol)}</p>'
        + "".join(_note(note) for note in score.notes)
        + "".join(charts_of(score))
        + f"<details><summary>All {len(score.figures)} figures</summary>"
        + _table(_HEADS, [_cells(item) for item in score.figures])
        + f"</details><details><summary>How it was made</summary><pre>{_text(shown)}</pre></details>"
    )


def _note(note: str) -> str:
    kind = "suspect" if note.startswith("suspect") else "note"
    return f'<p class="{kind}">{_text(note)}</p>'


def _cells(item: Figure) -> list[Any]:
    unit = f" {item.unit}" if item.unit else ""
    value = "withheld" if item.value is None else f"{item.value:.2f}{unit}"
    n = f"{item.n:,}" + (f" ({item.n_correct:,})" if item.n_correct is not None and item.unit == PERCENT else "")
    floor = "" if item.floor is None else f"{item.floor:.2f}{unit} ({item.floor_answer})"
    se = "" if item.se is None else f"{item.se:.2f}"
    return [item.name, value, se, n, item.n_invalid or "", item.n_missing or "", floor]


def _timelines(rows: RowSet[CommentaryRow], thumbnails: Thumbnails) -> str:
    timed = [row for row in rows.rows if row.turns]
    # The same ones whatever the order of rows.
    chosen = sorted(timed, key=lambda row: hashlib.sha256(row.key.encode()).hexdigest())[:_TIMELINES]
    what = f"{len(chosen)} of {len(timed)}" if len(chosen) < len(timed) else str(len(timed))
    return (
        f"<h2>Timelines: {_text(rows.header.model or rows.source)}</h2>"
        f'<p class="note">{what} commentaries. Above: what a person said; below: what the model said.</p>'
        + "".join(_timeline(row, thumbnails(row, _n_pictures(row))) for row in chosen)
    )


def _n_pictures(row: CommentaryRow) -> int:
    return max(min(int((row.end_s - row.begin_s) / _TIMELINE_FRAME_S), _TIMELINE_FRAMES), 2)


def _timeline(row: CommentaryRow, frames: Sequence[Thumbnail]) -> str:
    def left(time_s: float) -> str:
        return f"{max(time_s - row.begin_s, 0) * _SECOND_PX:.0f}px"

    def said(spans: Iterable[SpokenSpan], kind: str) -> str:
        return "".join(
            f'<div class="said {kind}" title="{_text(f"{span.start_s:.1f} to {span.end_s:.1f} s: {span.text}")}" '
            f'style="left:{left(span.start_s)};width:{max(span.end_s - span.start_s, 0.2) * _SECOND_PX:.0f}px">'
            f"{_text(span.text)}</div>"
            for span in spans
            if span.text.strip()
        )

    seconds = range(0, int(row.end_s - row.begin_s) + 1, 5)
    marks = "".join(
        f'<span class="second" style="left:{second * _SECOND_PX}px">{row.begin_s + second:.0f} s</span>'
        for second in seconds
    )
    pictures = "".join(f'<img alt="" src="{item.source}" style="left:{left(item.time_s)}">' for item in frames)
    return (
        f'<h4>{_text(row.key)}</h4><div class="timeline">{said(row.reference, "reference")}{pictures}{marks}'
        f"{said(row.turns, 'model')}</div>"
    )


def _verdicts(sets: Sequence[RowSet[Row]], thumbnails: Thumbnails, references: dict[str, str]) -> list[str]:
    """Return the viewer of the files of verdicts of which both texts are given; nothing if there are none."""
    texts = [rows.of(CommentaryRow) for rows in sets if rows.header.layout == "commentary"]
    shown = []
    for rows in sets:
        if rows.header.layout == "verdict":
            sides = [_texts_of(name, texts) for name in (rows.header.model, rows.header.opponent)]
            if all(sides):
                shown.append(_verdict_data(rows.of(VerdictRow), sides[0], sides[1], thumbnails, references))
    if not shown:
        return []
    # Inside a script element only its end tag needs escaping.
    return [_VIEWER.replace("DATA", json.dumps(shown, ensure_ascii=False).replace("<", "\\u003c"))]


def _texts_of(model: str | None, texts: Sequence[RowSet[CommentaryRow]]) -> dict[str, CommentaryRow]:
    found = next((rows for rows in texts if model in (rows.header.model, Path(rows.source).stem)), None)
    return {row.key: row for row in found.rows} if found else {}


def _verdict_data(
    verdicts: RowSet[VerdictRow],
    model: dict[str, CommentaryRow],
    opponent: dict[str, CommentaryRow],
    thumbnails: Thumbnails,
    references: dict[str, str],
) -> dict[str, Any]:
    """Return the data of a file of verdicts for the page's script."""
    rows = []
    by_key = {judged.key: judged for judged in both_orders(verdicts.rows)}
    for key, ours in model.items():  # in the order of the commentaries, not in that of the judge's answers
        judged, theirs = by_key.get(key), opponent.get(key)
        if judged is None or theirs is None:
            continue
        said = references.get(judged.key) or " ".join(span.text for span in ours.reference)
        rows.append(
            {
                "key": judged.key,
                "ab": judged.ab.winner,
                "ba": judged.ba.winner,
                "invalid": (not judged.ab.is_valid) + (not judged.ba.is_valid),
                "model": ours.pred or "",
                "opponent": theirs.pred or "",
                "reference": said,
                "replies": [reply for reply in (judged.ab.reply, judged.ba.reply) if reply],
                "frames": [item.source for item in thumbnails(ours, _STRIP_FRAMES)],
            }
        )
    header = verdicts.header
    name = hashlib.sha256(f"{header.model} {header.opponent} {header.judge} {verdicts.source}".encode()).hexdigest()[
        :12
    ]
    judge = header.judge or "a judge that is not named"
    return {"id": name, "model": header.model, "opponent": header.opponent, "judge": judge, "rows": rows}


_VIEWER = """<h2>Verdicts</h2>
<p><select id="set"></select> <select id="filter"><option value="all">all rows</option>
<option value="different">winner differs with the order</option><option value="invalid">invalid replies</option>
<option value="model">the model wins both</option><option value="opponent">the opponent wins both</option>
<option value="mine">decided by you</option></select>
<button id="previous">Previous</button><button id="next">Next</button> <span id="position"></span></p>
<div id="verdict"><h3 id="row-key"></h3><div class="strip" id="strip"></div><p id="said"></p>
<div class="texts"><div><h4 id="model-name"></h4><pre id="model-text"></pre></div>
<div><h4 id="opponent-name"></h4><pre id="opponent-text"></pre></div>
<div><h4>Human</h4><pre id="reference-text"></pre></div></div>
<details><summary>What the judge replied</summary><pre id="replies"></pre></details>
<p>Who is nearer to what the person said? <button id="choose-model"></button>
<button id="choose-opponent"></button><button id="choose-tie">Neither</button></p></div>
<p><span id="agreement"></span> <button id="save">Save your verdicts</button></p>
<script type="application/json" id="verdict-data">DATA</script>"""


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_text(item)}</th>" for item in heads)
    lines = []
    for row in rows:
        cells = [
            f'<td class="number">{_text(cell)}</td>' if isinstance(cell, int | float) else f"<td>{_text(cell)}</td>"
            for cell in row
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _text(value: Any) -> str:
    return html.escape("" if value is None else str(value))
