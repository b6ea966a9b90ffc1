"""`livecc evaluate report` as a function."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..scorers.figures import Score
from ..scoring import read_sets, score_sets
from ..suites import suite_of
from ..tasks.annotations import read_annotations
from ..tasks.livesports_cc import read_events
from ..tasks.videos import VideoFolder
from .html_page import write_page
from .thumbnails import no_thumbnails, thumbnails_from


def report(
    paths: Sequence[str | os.PathLike] | str | os.PathLike,
    out: str | os.PathLike,
    videos: str | os.PathLike | None = None,
    annotations: str | os.PathLike | None = None,
    incomplete: bool = False,
    model_name: str | None = None,
) -> list[Score]:
    """Write one HTML page of predictions and verdicts: figures, charts, timelines, and verdicts to overrule.

    Args:
        paths: files and folders, as `score` takes them.
        out: the page.
        videos: folder with the videos, for pictures.
        annotations: LiveSports-3K CC's rows, for what people said beside verdicts.
        incomplete: show headlines of incomplete sets, with N in their names.
        model_name: of published verdicts: which winner is the model.

    Returns:
        The scores on the page.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if one is in no known layout, or its rows cannot be scored.
        ImportError: if matplotlib is not installed.
    """
    sets = read_sets(paths, model_name)
    scores = score_sets(sets, incomplete=incomplete)
    pictures = no_thumbnails if videos is None else thumbnails_from(VideoFolder(videos))
    references = {}
    if annotations is not None:
        suite = suite_of("livesports3k-cc")
        events = read_events(read_annotations(suite.name, suite.dataset, annotations))
        references = {event.row.key: event.reference for event in events}
    write_page(Path(out), scores, sets, pictures, references)
    return scores
