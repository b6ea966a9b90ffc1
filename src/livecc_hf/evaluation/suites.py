"""The benchmarks: what they are called, where they come from, and how their figures are put together."""

from __future__ import annotations

from dataclasses import dataclass

from .scorers.answers import FIXED, LIVECC, OFFICIAL

LIVE = "live"


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: as commands take it.
        title: as its authors write it.
        layout: of its rows: "choice" or "commentary".
        dataset: Hub id of its questions.
        n_rows: rows of the whole benchmark; 0 where that hangs on what is judged.
        protocols: that it can be run in; the first is the default.
        breakdowns: groups of a row by which figures are shown; several together for each pair.
        mean_of: the score is the mean over this group's values, of means over the next group's and so on; empty: over
            all rows.
        metric: what the headline is called.
    """

    name: str
    title: str
    layout: str
    dataset: str
    n_rows: int
    protocols: tuple[str, ...]
    breakdowns: tuple[tuple[str, ...], ...] = ()
    mean_of: tuple[str, ...] = ()
    metric: str = "accuracy"


_VIDEOMME = (
    ("duration",),
    ("domain",),
    ("sub_category",),
    ("task_type",),
    ("duration", "domain"),
    ("duration", "sub_category"),
    ("duration", "task_type"),
)
_CHOICE = (LIVECC, OFFICIAL, FIXED)
SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            *("livesports3k-cc", "LiveSports-3K CC", "commentary", "stdKonjac/LiveSports-3K", 1702),
            protocols=(LIVECC, LIVE),
            metric="win rate",
        ),
        Suite(
            *("livesports3k-qa", "LiveSports-3K QA", "choice", "stdKonjac/LiveSports-3K", 1174),
            protocols=(LIVECC, FIXED),
            breakdowns=(("q_type",), ("ocr",)),
        ),
        Suite(
            *("videomme", "Video-MME", "choice", "lmms-lab/Video-MME", 2700),
            protocols=_CHOICE,
            breakdowns=_VIDEOMME,
        ),
        Suite(
            *("videomme-subtitles", "Video-MME with subtitles", "choice", "lmms-lab/Video-MME", 2700),
            protocols=_CHOICE,
            breakdowns=_VIDEOMME,
        ),
        Suite(
            *("ovobench", "OVO-Bench", "choice", "JoeLeelyf/OVO-Bench", 3035),
            protocols=_CHOICE,
            breakdowns=(("group",), ("task",)),
            mean_of=("group", "task"),
        ),
        Suite(
            *("mvbench", "MVBench", "choice", "OpenGVLab/MVBench", 4000),
            protocols=_CHOICE,
            breakdowns=(("task_type",),),
            mean_of=("task_type",),
        ),
        # Windows of long commentaries: judged and scored, not run.
        Suite(
            *("inf-streams", "Inf-Streams windows", "commentary", "mit-han-lab/Inf-Stream-Eval", 0),
            protocols=(),
            metric="win rate",
        ),
    )
}


def suite_of(name: str | None) -> Suite:
    """Return the benchmark of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in SUITES:
        raise ValueError(f"there is no benchmark {name!r}: expected one of {', '.join(SUITES)}")
    return SUITES[name]
