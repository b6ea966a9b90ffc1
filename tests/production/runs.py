"""Runs of small manifests, and what they wrote."""

from pathlib import Path

import pyarrow.parquet as pq
from manifests import write_manifest

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
