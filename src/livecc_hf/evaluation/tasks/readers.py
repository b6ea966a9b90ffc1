"""Turns the rows of each benchmark into questions or events for a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from ..prompt_files import Prompts
from . import livesports_qa, mvbench, ovobench, videomme
from .annotations import Annotations
from .livesports_cc import SportsEvent, cc_prompts, read_events
from .questions import Question

Task = Question | SportsEvent
SUBTITLES = "videomme-subtitles"
_READERS: dict[str, tuple[Callable[[Annotations, str], Sequence[Task]], Callable[[str], Prompts]]] = {
    "livesports3k-cc": (lambda annotations, _: read_events(annotations), lambda _: cc_prompts()),
    "livesports3k-qa": (livesports_qa.read_questions, livesports_qa.prompts_of),
    "videomme": (videomme.read_questions, videomme.prompts_of),
    SUBTITLES: (videomme.read_questions, videomme.prompts_of),
    "ovobench": (ovobench.read_questions, ovobench.prompts_of),
    "mvbench": (mvbench.read_questions, mvbench.prompts_of),
}


def read_tasks(
    suite: str, annotations: Annotations, protocol: str, subtitles: str | os.PathLike | None = None
) -> Sequence[Task]:
    """Return a benchmark's rows as questions or events.

    Args:
        suite: name of the benchmark.
        annotations: the rows as published.
        protocol: the protocol of the run.
        subtitles: for Video-MME with subtitles, the folder of VIDEO.srt files.

    Raises:
        ValueError: if the rows are not in the published format.
        FileNotFoundError: if subtitles are needed and `subtitles` is not a folder.
    """
    if suite == SUBTITLES:
        return videomme.read_questions(annotations, protocol, True, subtitles)
    return _READERS[suite][0](annotations, protocol)


def prompts_of(suite: str, protocol: str) -> Prompts:
    """Return the prompts of a benchmark's protocol."""
    return _READERS[suite][1](protocol)
