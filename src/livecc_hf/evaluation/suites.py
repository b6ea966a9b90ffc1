"""The benchmarks: their names, sources, protocols, and how their figures are computed."""

from __future__ import annotations

from dataclasses import dataclass

from .scorers.answers import FIXED, LIVECC, OFFICIAL

LIVE = "live"


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: in commands.
        title: the name that its authors use.
        layout: of its rows: "choice" or "commentary".
        dataset: Hub id of its questions.
        n_rows: rows of the whole benchmark; 0 if it depends on what is judged.
        protocols: in which it can be run; the first is the default.
        breakdowns: the groups of rows for which figures are given; several together for each combination.
        mean_of: the score is a mean over this group's values of means over the next group's, and so on; empty: a mean
            over all rows.
        metric: name of the headline.
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
