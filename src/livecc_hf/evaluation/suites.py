"""The benchmarks: names, data sets, protocols, and how rows are averaged into a score."""

from __future__ import annotations

from dataclasses import dataclass

from .scorers.answers import FIXED, LIVECC, OFFICIAL

LIVE = "live"


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: its name in commands.
        title: its name in publications.
        layout: type of its rows, "choice" or "commentary".
        dataset: Hub id of the questions.
        n_rows: rows of the whole benchmark; 0 if the number depends on the commentaries that are judged.
        protocols: the protocols it can be run with, the default first.
        breakdowns: groups that get a figure for each of their values; several names in one tuple give a figure for
            each combination.
        mean_of: groups of a nested mean, the outermost first: the score is the mean over the values of the first group
            of the mean over the values of the second, and so on; empty: the mean over all rows.
        metric: name of the headline figure.
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
        # Windows of long commentaries can be judged and scored, but not run by themselves.
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
        ValueError: if the name is unknown.
    """
    if name not in SUITES:
        raise ValueError(f"there is no benchmark {name!r}: expected one of {', '.join(SUITES)}")
    return SUITES[name]


def title_of(name: str) -> str:
    """Return the published name of a benchmark, or `name` itself if it is not a benchmark of this package."""
    return SUITES[name].title if name in SUITES else name
