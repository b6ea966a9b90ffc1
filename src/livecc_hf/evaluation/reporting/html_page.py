"""Writes the HTML page: figures with charts, timelines of commentaries, and verdicts to check and overrule."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from livecc_hf.utils.atomic import atomic_write
from livecc_hf.utils.extras import require_extra

from ..predictions.file import RowSet
from ..predictions.judged_texts import find_texts
from ..predictions.rows import MODEL, OPPONENT, CommentaryRow, Row, SpokenSpan, VerdictRow, text_hash
from ..scorers.figures import Figure, Score
from ..scorers.win_rate import both_orders
from ..suites import title_of
from .charts import charts_of
from .thumbnails import Thumbnail, Thumbnails, no_thumbnails

_SECOND_PX = 46
_TIMELINES, _STRIP_FRAMES = 12, 6
_TIMELINE_FRAME_S, _TIMELINE_FRAMES = 2.2, 120  # a thumbnail is about as wide as two seconds


def write_page(
    path: str | os.PathLike,
    scores: Sequence[Score],
    sets: Sequence[RowSet[Row]] = (),
    thumbnails: Thumbnails = no_thumbnails,
    references: dict[str, str] | None = None,
) -> None:
    """Write the page as one self-contained file.

    Args:
        path: the HTML file to write.
        scores: the scores, in the order to show.
        sets: the scored rows; commentaries with turns get timelines, and verdicts are shown if both sides' texts are
            among them.
        thumbnails: makes thumbnails of a clip.
        references: what people said, by row key; default: the references of the commentaries.

    Raises:
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written.
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
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")


def _summary(scores: Sequence[Score]) -> str:
    rows = [
        [title_of(score.suite), score.subject, score.protocol or "", *_cells(item)]
        for score in scores
        for item in score.figures[: score.n_headline]
    ]
    return _table(["benchmark", "model", "protocol", *_HEADS], rows) + f'<p class="note">{_LEGEND}</p>'


_LEGEND = (
    "N: rows, and in brackets how many of them count (correct answers, wins). ± SE: standard error, clustered by "
    "video. Invalid and missing answers count as wrong. Constant answer: the score of always giving the same answer."
)
_HEADS = ("figure", "value", "± SE", "N", "invalid", "missing", "constant answer")


def _score_section(score: Score) -> str:
    details = {name: value for name, value in score.details.items() if value not in (None, "", {})}
    shown = json.dumps(details, indent=1, ensure_ascii=False)
    return (
        f"<h2>{_text(title_of(score.suite))}: {_text(score.subject)}</h2>"
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
    cells = item.cells()
    return [item.name, cells.value, cells.se, cells.n, item.n_invalid or "", item.n_missing or "", cells.floor]


def _timelines(rows: RowSet[CommentaryRow], thumbnails: Thumbnails) -> str:
    timed = [row for row in rows.rows if row.turns]
    # A pseudo-random sample that does not depend on the order of the rows.
    chosen = sorted(timed, key=lambda row: text_hash(row.key))[:_TIMELINES]
    count = f"{len(chosen)} of {len(timed)}" if len(chosen) < len(timed) else str(len(timed))
    return (
        f"<h2>Timelines: {_text(rows.header.model or rows.source)}</h2>"
        f'<p class="note">{count} commentaries. Above: what a person said; below: what the model said.</p>'
        + "".join(_timeline(row, thumbnails(row, _n_thumbnails(row))) for row in chosen)
    )


def _n_thumbnails(row: CommentaryRow) -> int:
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
    """Return the section that shows the verdicts whose texts are among the sets; [] if there are none."""
    texts = [rows.of(CommentaryRow) for rows in sets if rows.header.layout == "commentary"]
    shown = []
    for rows in sets:
        if rows.header.layout == "verdict":
            verdicts = rows.of(VerdictRow)
            model, opponent = (find_texts(verdicts, whose, texts) for whose in (MODEL, OPPONENT))
            if model is not None and opponent is not None:
                shown.append(_verdict_data(verdicts, model, opponent, thumbnails, references))
    if not shown:
        return []
    # JSON in a script element must not contain "</script>".
    return [_VIEWER.replace("DATA", json.dumps(shown, ensure_ascii=False).replace("<", "\\u003c"))]


def _verdict_data(
    verdicts: RowSet[VerdictRow],
    model: RowSet[CommentaryRow],
    opponent: RowSet[CommentaryRow],
    thumbnails: Thumbnails,
    references: dict[str, str],
) -> dict[str, Any]:
    """Return the rows of a verdict file as page.js reads them, in the order of the commentaries."""
    rows = []
    by_key = {judged.key: judged for judged in both_orders(verdicts.rows)}
    opponent_rows = {row.key: row for row in opponent.rows}
    for ours in model.rows:
        judged, theirs = by_key.get(ours.key), opponent_rows.get(ours.key)
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
    identity = f"{header.model} {header.opponent} {header.judge} {verdicts.source}"
    return {
        "id": text_hash(identity)[:12],
        "model": header.model,
        "opponent": header.opponent,
        "judge": header.judge or "an unnamed judge",
        "rows": rows,
    }


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
<p>Which is closer to what the person said? <button id="choose-model"></button>
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
