"""Evaluation: how good and how well timed a commentary is, and how many questions are answered; docs/evaluation.md.

| folder | content |
|---|---|
| `tasks` | the rows and prompts of benchmarks |
| `running` | runs them on a model |
| `predictions` | files of answers, commentaries and verdicts, also in published formats |
| `lmms` | a model and a task for lmms-eval |
| `scorers` | figures from these files alone: no model, no GPU |
| `judging` | a language model compares two commentaries |
| `reporting` | scores as JSON, Markdown, the Hub's files and a page |
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

# Imported at first use, so that a command line's help does not wait for them.
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
