"""Writes scores as `.eval_results/*.yaml`, which the Hub shows on model pages and benchmark leaderboards."""

from __future__ import annotations

import os
import re
from pathlib import Path

from livecc_hf.utils.atomic import atomic_write

from ..scorers.figures import Score

FOLDER = ".eval_results"


def write_eval_results(folder: str | os.PathLike, score: Score, dataset_id: str, task_id: str) -> Path:
    """Write a score's headline as an evaluation result of the Hub.

    Args:
        folder: a model folder; the file goes into its `.eval_results` folder.
        score: a score whose headline is not withheld.
        dataset_id: Hub id under which the benchmark is registered, such as `lmms-lab/Video-MME`.
        task_id: id of the benchmark's task on the Hub.

    Returns:
        The file.

    Raises:
        ValueError: if the headline is withheld, or `dataset_id` is not a Hub id.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    headline = score.figures[0]
    if headline.value is None:
        raise ValueError(
            f"{score.source}: {headline.name} is withheld because rows are missing: there is nothing to publish"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset_id):
        raise ValueError(f"dataset {dataset_id!r} is not a Hub id: expected one such as lmms-lab/Video-MME")
    notes = [f"livecc-hf, protocol {score.protocol}", f"N = {headline.n}"]
    notes += [] if headline.se is None else [f"standard error {headline.se:.2f}, clustered by video"]
    notes += [] if headline.floor is None else [f"a constant answer gets {headline.floor:.2f}"]
    entry = EvalResultEntry(
        dataset_id=dataset_id, task_id=task_id, value=round(headline.value, 2), notes="; ".join(notes)
    )
    name = re.sub(r"[^\w.-]+", "_", f"{score.suite}_{score.protocol}")
    path = Path(folder) / FOLDER / f"{name}.yaml"
    with atomic_write(path) as partial:
        partial.write_text(yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False), encoding="utf-8")
    return path
