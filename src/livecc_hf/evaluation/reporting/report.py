"""`livecc evaluate report` as a function."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from livecc_hf.utils.output_file import check_not_read

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
    """Write an HTML page with figures, charts, timelines, and verdicts that a person can check and overrule.

    Args:
        paths: files and folders, as `score` takes them.
        out: the HTML file to write.
        videos: folder with the videos, to show thumbnails.
        annotations: the rows of LiveSports-3K CC, to show what people said next to the verdicts.
        incomplete: show the headline of an incomplete set, with N in its name, instead of withholding it.
        model_name: for published verdicts, the winner that is the evaluated model.

    Returns:
        The scores on the page.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if a file is not in a known format, its rows cannot be scored, or `out` is one of the files.
        ImportError: if matplotlib is not installed.
    """
    sets = read_sets(paths, model_name)
    check_not_read(out, [item.source for item in sets])
    scores = score_sets(sets, incomplete=incomplete)
    pictures = no_thumbnails if videos is None else thumbnails_from(VideoFolder(videos))
    references = {}
    if annotations is not None:
        suite = suite_of("livesports3k-cc")
        events = read_events(read_annotations(suite.name, suite.dataset, annotations))
        references = {event.row.key: event.reference for event in events}
    write_page(Path(out), scores, sets, pictures, references)
    return scores
