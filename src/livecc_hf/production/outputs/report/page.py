"""The page of a report: an overview, a section for each stage, and samples of kept items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path

from ....utils.text import counted
from ...execution.units import StageStats
from ...stages.base import Stage
from ...stages.registry import HOW_KEYS
from .charts import BINS, Distribution, cutting_stage, thresholds_of
from .html import anchor, code, number, plain_value, table, text
from .pictures import Photographer
from .samples import ReportSample
from .strips import measures_of, show_sample


@dataclass(frozen=True)
class Findings:
    """Counts and samples of a run's rows.

    Attributes:
        distributions: of the numbers that have a threshold.
        kept: samples of kept rows.
        reasons: number of rows dropped, by stage and reason.
        dropped: samples of dropped rows, by stage and reason.
    """

    distributions: Sequence[Distribution]
    kept: Sequence[ReportSample]
    reasons: Mapping[tuple[str, str], int]
    dropped: Mapping[tuple[str, str], Sequence[ReportSample]]

    def reasons_of(self, stage: str) -> list[str]:
        """Return the reasons of a stage, the most frequent first."""
        found = [(-count, reason) for (name, reason), count in self.reasons.items() if name == stage]
        return [reason for _, reason in sorted(found)]


def make_page(
    folder: Path,
    stats: Sequence[StageStats],
    stages: Sequence[Stage],
    found: Findings,
    photographer: Photographer,
) -> str:
    """Return the page as HTML.

    Args:
        folder: of the page.
        stats: statistics of each stage.
        stages: for their thresholds.
        found: counts and samples.
        photographer: reads the pictures.
    """
    name = text(folder.absolute().name)
    writer = _Writer(folder, stages, found, photographer)
    # The input and the dataset have a section too if they dropped rows.
    names = [item.name for item in stats]
    names += [stage for stage in dict.fromkeys(stage for stage, _ in found.reasons) if stage not in names]
    by_name = {stage.name: stage for stage in stages}
    stats_of = {item.name: item for item in stats}
    shown = [stage for stage in names if stage in by_name or found.reasons_of(stage)]
    links = "".join(f'<a href="#{anchor("stage", stage)}">{text(stage)}</a>' for stage in shown)
    nav = f'<nav>{links}<a href="#kept">kept</a></nav>'
    sections = [f"<h1>Data production: {name}</h1>{nav}{_overview(stats, stages, found, shown)}"]
    sections += [writer.stage(stage, by_name.get(stage), stats_of.get(stage)) for stage in shown]
    kept = "".join(writer.sample(sample, sample.others) for sample in found.kept) or "<p>Nothing.</p>"
    sections.append(f'<h2 id="kept">Kept <span class="soft">{len(found.kept)} shown</span></h2>{kept}')
    style = (files("livecc_hf.production.outputs.report") / "page/report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Data production: {name}</title><style>{style}</style></head><body>"
        + "".join(f"<section>{section}</section>" for section in sections)
        + "</body></html>"
    )


def _overview(stats: Sequence[StageStats], stages: Sequence[Stage], found: Findings, shown: Sequence[str]) -> str:
    """Return the funnel as a table."""
    rows = []
    cut = cutting_stage(stats, stages)
    for index, item in enumerate(stats):
        share = item.items_out / item.items_in if item.items_in else 0.0
        bar = f'<span class="share"><em style="width:{100 * share:.1f}%"></em></span>' if index != cut else ""
        hours = [
            f"{value:,.2f}" if value or not items else "unknown"
            for value, items in ((item.hours_in, item.items_in), (item.hours_out, item.items_out))
        ]
        n_dropped = sum(count for (stage, _), count in found.reasons.items() if stage == item.name)
        counts = [f"{value:,}" for value in (item.items_in, item.items_out)]
        percent = f"{share:.1%}" if index != cut else "clips of videos"
        name = text(item.name)
        if item.name in shown:
            name = f'<a href="#{anchor("stage", item.name)}">{name}</a>'
        seconds = f"{item.seconds:,.1f}"
        rows.append([name, *counts, percent, bar, *hours, f"{n_dropped:,}", f"{item.errors:,}", seconds])
    heads = ["stage", "in", "kept", "", "", "hours in", "hours kept", "rows dropped", "errors", "process seconds"]
    return f'<div class="scroll">{table(heads, rows, (1, 2, 3, 5, 6, 7, 8, 9))}</div>'


class _Writer:
    """Writes the sections and samples of a page."""

    def __init__(self, folder: Path, stages: Sequence[Stage], found: Findings, photographer: Photographer):
        self.folder, self.found, self.photographer = folder, found, photographer
        self._items = [
            (item.name, item, dict(thresholds_of(item, stages))) for item in found.distributions if not item.is_empty
        ]

    def stage(self, name: str, stage: Stage | None, stats: StageStats | None) -> str:
        """Return the section of a stage, which fits on a screen while its samples are collapsed."""
        doc = (type(stage).__doc__ or "").strip().split("\n")[0] if stage is not None else ""
        counts = ""
        if stats is not None and stage is not None and stage.makes_clips:
            counts = f"{counted(stats.items_in, 'video')} in, {counted(stats.items_out, 'clip')} kept"
        elif stats is not None:
            counts = f"{stats.items_in:,} in, {stats.items_out:,} kept"
        facts = f'<p class="soft">{code(doc)}</p>' if doc else ""
        facts += _thresholds(stage) if stage is not None else ""
        facts += self._parts(name, stage, stats)
        items = [entry for entry in self._items if entry[1].is_cut_by(name)]
        charts = "".join(_histogram(item, thresholds) for _, item, thresholds in items)
        reasons = "".join(self._reason(name, reason) for reason in self.found.reasons_of(name))
        reasons = reasons or '<p class="soft">Nothing was dropped.</p>'
        head = f'<h2 id="{anchor("stage", name)}">{text(name)} <span class="soft">{counts}</span></h2>'
        return (
            f'<div class="stage">{head}<div>{facts}</div><div>{charts}</div><div class="reasons">{reasons}</div></div>'
        )

    def _parts(self, name: str, stage: Stage | None, stats: StageStats | None) -> str:
        """Return a remark on rows about parts of items that a stage kept; they are listed with the dropped items."""
        if stats is None or (stage is not None and stage.makes_clips):
            return ""
        n_rows = sum(self.found.reasons[name, reason] for reason in self.found.reasons_of(name))
        n_parts = n_rows - (stats.items_in - stats.items_out)
        if n_parts <= 0:
            return ""
        return f'<p class="soft">{counted(n_parts, "row")} below: a part that was lost of an item that was kept.</p>'

    def _reason(self, stage: str, reason: str) -> str:
        samples = self.found.dropped.get((stage, reason), ())
        cut = [entry for entry in self._items if entry[1].is_cut_by(stage, reason)][:1]
        shown = []
        for sample in samples:
            value = {cut[0][0]: sample.others.get("value")} if cut else {}
            shown.append(self.sample(sample, value))
        count = self.found.reasons[stage, reason]
        # The id is inside the collapsed part, so that a link to it expands it.
        return (
            f"<details><summary>Dropped by {text(stage)}: {text(reason)} <b>{count:,}</b></summary>"
            f'<div id="{anchor(stage, reason)}">{"".join(shown)}</div></details>'
        )

    def sample(self, sample: ReportSample, values: Mapping[str, object]) -> str:
        """Return a sample with its pictures, and with a bar for each number that has a distribution."""
        measures = measures_of(values, self._items)
        if measures and "value" in sample.others:
            sample = replace(sample, others={key: value for key, value in sample.others.items() if key != "value"})
        return show_sample(sample, self.photographer.strip_of(sample), self.folder, measures)


def _thresholds(stage: Stage) -> str:
    """Return the options of a stage, with those that differ from their default highlighted."""
    if not is_dataclass(stage):
        return ""
    thresholds: list[str] = []
    others: list[str] = []
    meanings: list[list[str]] = []
    for item in fields(stage):
        if not item.init:
            continue
        value = getattr(stage, item.name)
        is_set = item.default is MISSING or value != item.default
        shown = f"{text(item.name)} = <b>{text(plain_value(value))}</b>"
        if is_set and item.default not in (MISSING, ""):
            shown += text(f" (default {plain_value(item.default)})")
        entry = f'<li class="set">{shown}</li>' if is_set else f"<li>{shown}</li>"
        (others if item.name in HOW_KEYS else thresholds).append(entry)
        meanings.append([text(item.name), code(item.metadata.get("help", ""))])
    parts = [f'<ul class="thresholds">{"".join(thresholds)}</ul>' if thresholds else ""]
    if meanings:
        shown = f'<ul class="thresholds">{"".join(others)}</ul>' if others else ""
        parts.append(
            f"<details><summary>Meaning of the options{', and those of execution' if others else ''}</summary>"
            f'<div class="scroll">{shown}{table(["option", "meaning"], meanings)}</div></details>'
        )
    return "".join(parts)


def _histogram(item: Distribution, thresholds: Mapping[str, float]) -> str:
    """Return the histogram of kept and dropped rows over a number, with lines at its thresholds."""
    most = max(int((item.kept + item.dropped).max()), 1)
    bars = {"kept": "", "dropped": ""}
    for place, (kept, dropped) in enumerate(zip(item.kept, item.dropped, strict=True)):
        for name, count, below in (("kept", kept, 0), ("dropped", dropped, kept)):
            if count:
                high, base = 100 * count / most, 100 - 100 * below / most
                bars[name] += f"M{place} {base:.2f}v-{high:.2f}h1v{high:.2f}z"
    low, top = item.span
    places = [(at - low) / (top - low) * BINS for at in thresholds.values()]
    lines = "".join(f'<path class="limit" d="M{place:.2f} 0v100"/>' for place in places)
    kept = f"kept {item.kept.sum():,}" if item.kept.any() else "kept: not measured"
    keys = [("kept", kept), ("dropped", f"dropped by it {item.dropped.sum():,}")]
    keys += [("limit", f"{name} = {at:g}") for name, at in thresholds.items()]
    key = "".join(f'<span class="{kind}"><b></b>{text(label)}</span>' for kind, label in keys)
    return (
        f"<figure><figcaption>{text(item.title)}</figcaption>"
        f'<svg class="chart" viewBox="0 0 {BINS} 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="kept" d="{bars["kept"]}"/><path class="dropped" d="{bars["dropped"]}"/>{lines}</svg>'
        f'<div class="axis"><span>{number(low)}</span><span>up to {most:,}</span><span>{number(top)}</span></div>'
        f'<div class="key">{key}</div></figure>'
    )
