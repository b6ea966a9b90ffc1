"""The last step of a run: joins the results of all units into the dataset, the dropped rows and the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..utils.atomic import atomic_write, write_json
from ..utils.hashing import text_hashes
from .execution.unit_folder import UnitFolder
from .execution.units import StageStats, total_stats
from .options import BuildOptions
from .outputs.dataset_folder import STAGE, NoClipError, write_dataset_folder
from .outputs.report.write import write_report
from .progress import Say
from .run_folder import DATASET, DROPPED, FUNNEL, REPORT, UNITS, VIDEOS, plain
from .schemas import CLIP_SCHEMA, DROPPED_SCHEMA, SUBTITLES, VIDEO_SCHEMA
from .stages.base import Stage, split


def assemble(options: BuildOptions, stages: list[Stage], out: Path, folder: UnitFolder, say: Say) -> dict[str, Any]:
    """Write the dataset, the dropped rows and the report from the finished units, unless they are up to date.

    Returns:
        `clips` (number of clips, or of videos if no stage makes clips) and `stages` (statistics of each stage).
    """
    file = out / FUNNEL
    if file.is_file():
        saved = _read_saved(file)
        # Written again, without running a stage, if options of `dataset` or `report` changed, if a file is missing, or
        # if no clip was kept, since videos that were missing may exist now.
        before = (saved.get("dataset"), saved.get("report", {}), saved.get("units"))
        is_same = before == (plain(options.dataset), plain(options.report), folder.numbers())
        if is_same and saved.get("clips") and all((out / name).is_file() for name in saved.get("files", [""])):
            return saved
        file.unlink()
    say("writing the dataset")
    stats = total_stats(folder.stats(number) for number in folder.numbers())
    repeats = _Repeats(folder)
    n_rows = 0
    extra: list[pa.Table] = []
    files: list[Path] = []
    if stats and stats[-1].items_out:
        n_rows, extra, files = _write_rows(options, stages, out, folder, stats, repeats, say)
    extra += repeats.dropped
    if extra:
        stats.append(_left_out(stats[-1], n_rows, extra))
    _write_tables(out / DROPPED, chain(folder.dropped(), extra, [DROPPED_SCHEMA.empty_table()]), DROPPED_SCHEMA)
    say("writing the report")
    kept, dropped = repeats.without(folder.rows()), pq.ParquetFile(out / DROPPED)
    write_report(out, stats, stages, kept, dropped, options.report_options())
    saved = {"clips": n_rows, "units": folder.numbers()}
    saved |= {"dataset": plain(options.dataset), "report": plain(options.report)}
    saved["files"] = [DROPPED, *REPORT, *(str(path.relative_to(out)) for path in files)]
    saved["stages"] = [asdict(item) for item in stats]
    write_json(file, saved)
    return saved


def _read_saved(file: Path) -> dict[str, Any]:
    """Return the record of an earlier run; empty if it is damaged, so that everything is written again."""
    try:
        return dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError):
        return {}


def _write_rows(
    options: BuildOptions,
    stages: list[Stage],
    out: Path,
    folder: UnitFolder,
    stats: list[StageStats],
    repeats: _Repeats,
    say: Say,
) -> tuple[int, list[pa.Table], list[Path]]:
    """Write the kept clips or videos; return their number, the rows left out of the dataset, and the files."""
    names = next(folder.schemas()).names
    if not {"start_s", "end_s"} <= set(names):
        schema = next((schema for schema in folder.schemas() if SUBTITLES in schema.names), VIDEO_SCHEMA)
        return _write_tables(out / VIDEOS, repeats.without(folder.rows()), schema), [], [out / VIDEOS]
    if others := [name for name in names if name not in CLIP_SCHEMA.names]:
        say(f"a dataset does not have these columns; find them in {out / UNITS}: {', '.join(others)}")
    try:
        written = write_dataset_folder(
            out / DATASET,
            map(_as_clips, repeats.without(folder.rows())),
            options.about(stages, {item.name: _counts(item) for item in stats}),
            options.folder_options(),
            say,
        )
    except NoClipError as error:
        return 0, [error.dropped], []
    files = [out / DATASET / "README.md", *(out / DATASET).glob("*.jsonl"), *(out / DATASET).glob("data/*")]
    return written.summary.n_clips, [written.dropped] if len(written.dropped) else [], files


def _left_out(last: StageStats, n_rows: int, dropped: list[pa.Table]) -> StageStats:
    """Return statistics of the rows that the last stage kept but the dataset leaves out."""
    hours = sum(pc.sum(table["hours"]).as_py() or 0.0 for table in dropped)
    n_dropped = sum(map(len, dropped))
    return StageStats(
        STAGE, last.items_out, n_rows, last.hours_out, max(last.hours_out - hours, 0.0), n_dropped, 0, 0.0
    )


def _counts(item: StageStats) -> dict[str, float | None]:
    return {
        "items_in": item.items_in,
        "items_out": item.items_out,
        "hours_in": item.hours_in or None,
        "hours_out": item.hours_out or None,
    }


def _as_clips(rows: pa.Table) -> pa.Table:
    """Return rows in `CLIP_SCHEMA`, without columns that the user's own stages added."""
    return rows.select(CLIP_SCHEMA.names).cast(CLIP_SCHEMA)


def _write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write tables to one Parquet file, renamed to its place when complete; return the number of rows."""
    rows = 0
    with atomic_write(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for table in tables:
            if not len(table):
                continue
            # Units whose videos have no inline captions lack that column.
            whole = pa.concat_tables([schema.empty_table(), table], promote_options="default")
            writer.write_table(whole.select(schema.names).cast(schema))
            rows += len(table)
    return rows


class _Repeats:
    """Drops rows whose id occurred in an earlier unit, as when a manifest lists a video twice.

    Attributes:
        dropped: these rows, complete once all tables of `without` were read.
    """

    def __init__(self, folder: UnitFolder):
        hashes = [text_hashes(folder.ids(number)) for number in folder.numbers()]
        found, counts = np.unique(np.concatenate([*hashes, np.empty(0, np.uint64)]), return_counts=True)
        self._suspects = found[counts > 1]
        self.dropped: list[pa.Table] = []

    def without(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the tables without rows whose id occurred in an earlier row."""
        self.dropped = []
        seen: set[str] = set()
        for table in tables:
            if not len(table):
                continue
            at = np.flatnonzero(np.isin(text_hashes(table["id"]), self._suspects)) if len(self._suspects) else ()
            reasons = np.full(len(table), None, object)
            for index in at:
                identity = table["id"][int(index)].as_py()
                reasons[index] = "repeated" if identity in seen else None
                seen.add(identity)
            result = split(STAGE, table, reasons)
            if len(result.dropped):
                self.dropped.append(result.dropped)
            yield result.kept if len(result.dropped) else table
