"""Evaluation of commentaries (quality and timing) and of answers to questions; see docs/evaluation.md.

| folder | content |
|---|---|
| `tasks` | benchmark rows and prompts |
| `running` | runs a benchmark on a model |
| `predictions` | files of answers, commentaries and verdicts, in this package's format and in published ones |
| `lmms` | model and task for lmms-eval |
| `scorers` | computes figures from prediction files, without a model or GPU |
| `judging` | asks a language model which of two commentaries is better |
| `reporting` | writes scores as JSON, Markdown, `.eval_results` files and an HTML page |
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exporting import export
    from .judging.ask import JudgeOptions, judge
    from .reporting.report import report
    from .running.plan import RunOptions
    from .running.run import ModelSource, run
    from .scoring import compare, list_suites, score

# Imported on first use, which keeps `livecc evaluate --help` fast.
_EXPORTS = {
    **dict.fromkeys(("compare", "list_suites", "score"), "scoring"),
    **dict.fromkeys(("JudgeOptions", "judge"), "judging.ask"),
    **dict.fromkeys(("ModelSource", "run"), "running.run"),
    "RunOptions": "running.plan",
    "export": "exporting",
    "report": "reporting.report",
}

__all__ = [
    "JudgeOptions",
    "ModelSource",
    "RunOptions",
    "compare",
    "export",
    "judge",
    "list_suites",
    "report",
    "run",
    "score",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
