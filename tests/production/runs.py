"""Helpers to run small manifests and to read the results."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from manifests import write_manifest

from livecc_hf.cli.main import main
from livecc_hf.production.build import build
from livecc_hf.production.options import BuildOptions

STAGES = {"simple_stages:Titles": {}, "pretrain_clips": {"min_s": 20.0}, "simple_stages:Score": {"max_loss": 200.0}}


def options_for(tmp_path, titles, out="out", **options) -> BuildOptions:
    manifest = tmp_path / "m.jsonl"
    if not manifest.exists():
        write_manifest(manifest, titles)
    given = {"input": str(manifest), "out": str(tmp_path / out), "unit_videos": 4, "workers": 1, "stages": STAGES}
    return BuildOptions(**(given | options))


def quiet_build(options):
    return build(options, say=lambda line: None)


def table_of(out, name):
    return pq.read_table(Path(out) / name)


def dataset_rows(out) -> list[dict]:
    return [row for file in sorted(Path(out).glob("dataset/data/*.parquet")) for row in pq.read_table(file).to_pylist()]


def train_losses(folder: Path, recipe: dict[str, Any], n_steps: int) -> list[float]:
    """Run `livecc train` on a recipe, which leaves the model in `folder / "model"`; return the loss of each step."""
    out = folder / "model"
    steps = {"max_steps": n_steps, "logging_steps": 1, "save_strategy": "steps", "save_steps": n_steps}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | steps | {"output_dir": str(out)}))
    assert main(["train", "--config", str(folder / "recipe.yaml")]) == 0
    state = json.loads((out / f"checkpoint-{n_steps}" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]
