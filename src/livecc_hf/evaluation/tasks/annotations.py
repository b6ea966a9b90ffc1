"""Benchmarks' questions and references, from a file in the published layout or from the Hub."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livecc_hf.utils.extras import require_extra
from livecc_hf.utils.text import one_line

# Where a benchmark's rows lie in its Hub repository.
HUB_FILES = {
    "livesports3k-cc": ("LiveSports-3K-CC.json",),
    "livesports3k-qa": ("LiveSports-3K-QA.json",),
    "videomme": ("videomme/test-00000-of-00001.parquet",),
    "videomme-subtitles": ("videomme/test-00000-of-00001.parquet",),
    "mvbench": ("json/*.json",),
}
# The commit that is read where the user names none; others are pinned by the first run that reads them.
PINNED_REVISIONS = {
    "lmms-lab/Video-MME": "ead1408f75b618502df9a1d8e0950166bf0a2a0b",
    "OpenGVLab/MVBench": "230a2d4fac8900333c61754641c7a13e069ac9c6",
}
# Where the questions lie that are in no Hub repository.
_ELSEWHERE = {
    "ovobench": "data/ovo_bench_new.json of github.com/JoeLeelyf/OVO-Bench, whose Hub repository has videos only"
}
FILE_COLUMN = "__file__"  # the stem of the file that a row comes from, where a benchmark has several


@dataclass(frozen=True)
class Annotations:
    """A benchmark's rows.

    Attributes:
        rows: as published.
        source: the Hub id, or the file's or folder's name.
        revision: the commit on the Hub, or a hash of the files.
    """

    rows: list[dict[str, Any]]
    source: str
    revision: str


def read_annotations(
    suite: str, dataset_id: str, path: str | os.PathLike | None = None, revision: str | None = None
) -> Annotations:
    """Read a benchmark's rows.

    Args:
        suite: the benchmark's name.
        dataset_id: its Hub id.
        path: a .json, .jsonl or .parquet file, or a folder of .json files; `None`: from the Hub.
        revision: a commit, tag or branch on the Hub; default: the pinned one, or the newest where none is known.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no rows, or cannot be fetched.
    """
    if path is None:
        folder, commit, names = _from_hub(suite, dataset_id, revision)
        found = sorted(file for name in names for file in folder.glob(name))
        return Annotations(_rows_of(found, folder), dataset_id, commit)
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"annotations {path} do not exist: expected a .json, .jsonl or .parquet file")
    found = [path] if path.is_file() else sorted(path.glob("*.json"))
    digest = hashlib.sha256()
    for file in found:
        digest.update(file.read_bytes())
    return Annotations(_rows_of(found, path), path.name, digest.hexdigest()[:16])


def _from_hub(suite: str, dataset_id: str, revision: str | None) -> tuple[Path, str, Sequence[str]]:
    names = HUB_FILES.get(suite)
    if names is None:
        where = f" ({_ELSEWHERE[suite]})" if suite in _ELSEWHERE else ""
        raise ValueError(f"the questions of {suite} are not on the Hub as files: give them with --annotations{where}")
    from huggingface_hub import snapshot_download

    revision = revision or PINNED_REVISIONS.get(dataset_id)
    try:
        folder = snapshot_download(dataset_id, repo_type="dataset", revision=revision, allow_patterns=list(names))
    except Exception as error:  # no network, no such repository, a gate: as many types as reasons
        raise ValueError(
            f"the questions of {suite} cannot be fetched from {dataset_id}: {one_line(error)}; give a file of them "
            "instead (--annotations)"
        ) from error
    return Path(folder), Path(folder).name, names


def _rows_of(found: Sequence[Path], place: Path) -> list[dict[str, Any]]:
    rows = []
    for file in found:
        of_file = _read(file)
        rows += [row | {FILE_COLUMN: file.stem} for row in of_file] if len(found) > 1 else of_file
    if not rows:
        raise ValueError(f"{place} holds no rows: expected a .json, .jsonl or .parquet file with some")
    return rows


def _read(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        require_extra("evaluate", f"reading {file.name}", "pyarrow")
        import pyarrow.parquet as pq

        return pq.read_table(file).to_pylist()
    text = file.read_text(encoding="utf-8")
    try:
        if file.suffix == ".jsonl":
            value = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            value = _json_or_lines(text)
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if isinstance(value, dict):  # a table in one object
        value = next((item for item in value.values() if isinstance(item, list)), [])
    value = [json.loads(row) if isinstance(row, str) else row for row in value]
    if not all(isinstance(row, dict) for row in value):
        raise ValueError(f"{file} holds something else than rows: expected a list of objects")
    return value


def _json_or_lines(text: str) -> Any:
    """Return JSON, or the rows of JSON Lines in a file that is called .json."""
    try:
        return json.loads(text)
    except ValueError:
        if text.lstrip().startswith("{"):
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        raise


def column(row: dict[str, Any], number: int, *names: str) -> Any:
    """Return a row's column, by the first of its names that is there.

    Raises:
        ValueError: if none is.
    """
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise ValueError(f"row {number} of the annotations has no column {names[0]}: it has {', '.join(row)}")


def options_of(row: dict[str, Any], number: int, name: str = "options") -> list[str]:
    """Return a row's options: a list, or one as JSON in a text.

    Raises:
        ValueError: if there are none.
    """
    options = column(row, number, name)
    try:
        found = json.loads(options) if isinstance(options, str) else list(options)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, list) or not found:
        raise ValueError(f"row {number} of the annotations: {name} are {str(options)[:80]!r}: expected a list of texts")
    return [str(option) for option in found]
