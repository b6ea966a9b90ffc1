"""Reads the rows of a benchmark (questions or references) from a file in the published format, or from the Hub."""

from __future__ import annotations

import hashlib
import json
import math
import os
from codecs import BOM_UTF8
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from livecc_hf.utils.extras import require_extra
from livecc_hf.utils.text import one_line

# Files with a benchmark's rows in its Hub repository.
HUB_FILES = {
    "livesports3k-cc": ("LiveSports-3K-CC.json",),
    "livesports3k-qa": ("LiveSports-3K-QA.json",),
    "videomme": ("videomme/test-00000-of-00001.parquet",),
    "videomme-subtitles": ("videomme/test-00000-of-00001.parquet",),
    "mvbench": ("json/*.json",),
}
# Default commits; a benchmark that is not listed is read at its newest commit, and a resumed run keeps that commit.
PINNED_REVISIONS = {
    "lmms-lab/Video-MME": "ead1408f75b618502df9a1d8e0950166bf0a2a0b",
    "OpenGVLab/MVBench": "230a2d4fac8900333c61754641c7a13e069ac9c6",
}
# Questions that are not in a Hub repository.
_ELSEWHERE = {
    "ovobench": "data/ovo_bench_new.json of github.com/JoeLeelyf/OVO-Bench, whose Hub repository has videos only"
}
Parsed = TypeVar("Parsed")
FILE_COLUMN = "__file__"  # added to rows of benchmarks with several files: the stem of the row's file


@dataclass(frozen=True)
class Annotations:
    """A benchmark's rows.

    Attributes:
        rows: the rows as published.
        source: the Hub id, or the name of the file or folder.
        revision: the commit on the Hub, or a hash of the files.
    """

    rows: list[dict[str, Any]]
    source: str
    revision: str


def check_revision(path: str | os.PathLike | None, revision: str | None) -> None:
    """Raise a ValueError if a file of rows is given and a revision of the rows on the Hub too."""
    if path is not None and revision is not None:
        raise ValueError(
            f"--dataset-revision {revision}: not with --annotations {path}, which is a local file; leave one out"
        )


def read_annotations(
    suite: str, dataset_id: str, path: str | os.PathLike | None = None, revision: str | None = None
) -> Annotations:
    """Read a benchmark's rows.

    Args:
        suite: name of the benchmark.
        dataset_id: the benchmark's Hub id.
        path: a .json, .jsonl or .parquet file, or a folder of .json files; default: the files on the Hub.
        revision: a commit, tag or branch on the Hub; default: the pinned commit, or the newest if none is pinned.

    Raises:
        FileNotFoundError: if `path` does not exist.
        ValueError: if there are no rows, a file is not in the expected format, or the Hub's files cannot be fetched.
        ImportError: if a .parquet file is read and pyarrow is not installed.
    """
    if path is None:
        folder, commit, names = _from_hub(suite, dataset_id, revision)
        found = sorted(file for name in names for file in folder.glob(name))
        return Annotations(_rows_of(found, folder), dataset_id, commit)
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"annotations {path} do not exist: expected a .json, .jsonl or .parquet file")
    found = [path] if path.is_file() else sorted(path.glob("*.json"))
    return Annotations(_rows_of(found, path), path.name, revision_of(found))


def revision_of(files: Sequence[Path]) -> str:
    """Return a hash of files, by which results of other rows are recognised."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _from_hub(suite: str, dataset_id: str, revision: str | None) -> tuple[Path, str, Sequence[str]]:
    names = HUB_FILES.get(suite)
    if names is None:
        where = f" ({_ELSEWHERE[suite]})" if suite in _ELSEWHERE else ""
        raise ValueError(f"the questions of {suite} are not on the Hub as files: give them with --annotations{where}")
    from huggingface_hub import snapshot_download

    revision = revision or PINNED_REVISIONS.get(dataset_id)
    try:
        folder = snapshot_download(dataset_id, repo_type="dataset", revision=revision, allow_patterns=list(names))
    except Exception as error:  # network, missing repository, gate: errors of many types
        raise ValueError(
            f"the questions of {suite} cannot be fetched from {dataset_id}: {one_line(error)}; give a file with the "
            "questions instead (--annotations)"
        ) from error
    return Path(folder), Path(folder).name, names


def _rows_of(files: Sequence[Path], source: Path) -> list[dict[str, Any]]:
    rows = []
    for file in files:
        file_rows = _read(file)
        rows += [row | {FILE_COLUMN: file.stem} for row in file_rows] if len(files) > 1 else file_rows
    if not rows:
        raise ValueError(f"{source} holds no rows: expected a non-empty .json, .jsonl or .parquet file")
    return rows


def _read(file: Path) -> list[dict[str, Any]]:
    if file.suffix.lower() == ".parquet":
        require_extra("evaluate", f"reading {file.name}", "pyarrow")
        import pyarrow.parquet as pq

        return pq.read_table(file).to_pylist()
    data = file.read_bytes()
    try:
        value = _json_lines(data) if file.suffix.lower() == ".jsonl" else _json_or_lines(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if isinstance(value, dict):  # an object that holds the list of rows
        value = next((item for item in value.values() if isinstance(item, list)), [])
    try:
        value = [json.loads(row) if isinstance(row, str) else row for row in value]
    except (ValueError, TypeError):
        value = [None]
    if not all(isinstance(row, dict) for row in value):
        raise ValueError(f"{file} does not hold rows: expected a list of objects")
    return value


def _json_or_lines(data: bytes) -> Any:
    """Return the JSON value of a .json file, or the rows if the file holds JSON Lines."""
    try:
        return json.loads(data)
    except ValueError:
        if data.removeprefix(BOM_UTF8).lstrip().startswith(b"{"):
            return _json_lines(data)
        raise


def _json_lines(data: bytes) -> list[Any]:
    # Not `splitlines`, which also splits at characters that JSON texts may hold, such as U+2028.
    return [json.loads(line) for line in data.split(b"\n") if line.strip()]


def parse_rows(annotations: Annotations, parse: Callable[[dict[str, Any], int], Parsed]) -> list[Parsed]:
    """Return each row as `parse` returns it, given the row and its number.

    Raises:
        ValueError: naming the first row that `parse` fails for.
    """
    parsed = []
    for number, row in enumerate(annotations.rows):
        try:
            parsed.append(parse(row, number))
        except (ValueError, TypeError, AttributeError) as error:
            place = f"row {number} of the annotations"
            if isinstance(error, ValueError) and str(error).startswith(place):
                raise
            raise ValueError(f"{place} cannot be used: {one_line(error)}") from error
    return parsed


def column(row: dict[str, Any], number: int, *names: str) -> Any:
    """Return a row's value in the first of the named columns that the row has.

    Raises:
        ValueError: if the row has none of them.
    """
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise ValueError(f"row {number} of the annotations has no column {names[0]}: it has {', '.join(row)}")


def seconds(row: dict[str, Any], number: int, *names: str) -> float:
    """Return a time in seconds from the first of the named columns that the row has.

    Raises:
        ValueError: if the row has none of them, or the value is not a finite number.
    """
    value = column(row, number, *names)
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"row {number} of the annotations: {names[0]} is {value!r:.80}: expected seconds")
    return found


def optional_seconds(row: dict[str, Any], number: int, *names: str) -> float | None:
    """Return `seconds` of the named columns, or `None` if the row has none of them."""
    return seconds(row, number, *names) if any(row.get(name) is not None for name in names) else None


def options_of(row: dict[str, Any], number: int, name: str = "options") -> list[str]:
    """Return a row's options, which may be stored as a list or as a string with a JSON list.

    Raises:
        ValueError: if there are no options.
    """
    options = column(row, number, name)
    try:
        found = json.loads(options) if isinstance(options, str) else list(options)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, list) or not found:
        raise ValueError(
            f"row {number} of the annotations: {name} are {str(options)[:80]!r}: expected a list of strings"
        )
    return [str(option) for option in found]
