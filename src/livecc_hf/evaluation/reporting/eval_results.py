"""Scores as `.eval_results/*.yaml`, which the Hub shows on a model's page and on a benchmark's leaderboard."""

from __future__ import annotations

import os
import re
from pathlib import Path

from livecc_hf.utils.atomic import replaced_when_done

from ..scorers.figures import Score

FOLDER = ".eval_results"


def write_eval_results(folder: str | os.PathLike, score: Score, dataset_id: str, task_id: str) -> Path:
    """Write a score's headline in the Hub's form.

    Args:
        folder: a model folder; the file goes into `.eval_results/` in it.
        score: with a headline that is not withheld.
        dataset_id: the benchmark as registered on the Hub, such as `lmms-lab/Video-MME`.
        task_id: its task there.

    Returns:
        The file.

    Raises:
        ValueError: if the headline is withheld, or the dataset's id is none.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    headline = score.figures[0]
    if headline.value is None:
        raise ValueError(
            f"{score.source}: {headline.name} is withheld, since rows are missing: there is nothing to publish"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset_id):
        raise ValueError(f"dataset {dataset_id!r} is no Hub id: expected one such as lmms-lab/Video-MME")
    notes = [f"livecc-hf, protocol {score.protocol}", f"N = {headline.n}"]
    notes += [] if headline.se is None else [f"standard error {headline.se:.2f}, clustered by video"]
    notes += [] if headline.floor is None else [f"a constant answer gets {headline.floor:.2f}"]
    entry = EvalResultEntry(
        dataset_id=dataset_id, task_id=task_id, value=round(headline.value, 2), notes="; ".join(notes)
    )
    name = re.sub(r"[^\w.-]+", "_", f"{score.suite}_{score.protocol}")
    path = Path(folder) / FOLDER / f"{name}.yaml"
    with replaced_when_done(path) as partial:
        partial.write_text(yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False), encoding="utf-8")
    return path
