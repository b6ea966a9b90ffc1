"""Inputs of a run: a manifest, or a folder of videos with captions and yt-dlp's metadata next to them.

An input is divided into work units of consecutive videos. A unit is passed to a process as a small reference, such as
the position of its lines in the manifest, and read by that process, so that memory does not grow with the input.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...captions.naming import DEFAULT_LANGUAGE, VIDEO_SUFFIXES, LeftOut, walk_videos
from ..schemas import CLIP_SCHEMA, VIDEO_SCHEMA
from .parquet import ParquetReader, read_header
from .rows import RowReader, from_info_json

UNIT_VIDEOS = 256
_PARQUET_READERS: dict[str, ParquetReader] = {}  # of this process


@dataclass(frozen=True)
class UnitRef:
    """A reference to a work unit, which is some consecutive videos of the input.

    Attributes:
        number: of the unit, from 0.
        items: number of videos, including unreadable ones.
        where: position of the videos in the input, in the input's own form.
    """

    number: int
    items: int
    where: tuple[Any, ...]


class VideoInput(ABC):
    """An input, divided into work units. Small and picklable, since other processes read the units.

    Args:
        path: of the input.
        unit_videos: videos in a work unit.
        limit: use only the first `limit` videos; `None`: all.

    Raises:
        ValueError: if `unit_videos` or `limit` is below 1.
    """

    def __init__(self, path: str | os.PathLike, unit_videos: int = UNIT_VIDEOS, limit: int | None = None):
        if unit_videos < 1:
            raise ValueError(f"unit_videos is {unit_videos}: expected 1 or more, such as {UNIT_VIDEOS}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}: expected 1 or more videos")
        self.path = Path(path).expanduser().absolute()
        self.unit_videos, self.limit = unit_videos, limit

    @abstractmethod
    def units(self) -> Iterator[UnitRef]:
        """Yield the work units, in the input's order."""

    @abstractmethod
    def read(self, unit: UnitRef) -> tuple[pa.Table, pa.Table]:
        """Read a unit.

        Returns:
            The unit's videos in `VIDEO_SCHEMA` (or clips in `CLIP_SCHEMA`), and the rows that could not be read, in
            `DROPPED_SCHEMA`.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that changes when the input changes."""

    @property
    def holds_clips(self) -> bool:
        """Whether the rows are clips."""
        return False

    @property
    def schema(self) -> pa.Schema:
        """The schema of a unit's rows."""
        return CLIP_SCHEMA if self.holds_clips else VIDEO_SCHEMA

    def describe_left_out(self) -> list[str]:
        """Return lines for the user on the files that are left out; complete once `fingerprint` was called."""
        return []


class _ScannedInput(VideoInput):
    """An input that must be scanned to find its videos."""

    def units(self) -> Iterator[UnitRef]:
        """Yield the work units, in the input's order."""
        places = self._places()
        if self.limit is not None:
            places = islice(places, self.limit)
        number = 0
        while group := list(islice(places, self.unit_videos)):
            yield UnitRef(number, len(group), self._where(group))
            number += 1

    @abstractmethod
    def _places(self) -> Iterator[Any]:
        """Yield the position of each video."""

    @abstractmethod
    def _where(self, places: list[Any]) -> tuple[Any, ...]:
        """Return the positions of a unit's videos, as `UnitRef.where` holds them."""


class JsonLinesInput(_ScannedInput):
    """A manifest with one JSON object per line, whose keys are columns of `VIDEO_SCHEMA`.

    `video` is required, and `id` defaults to it. `words` is a list of `[start, end, word]`, or of objects with such
    keys; `subtitles` is the same for caption lines, which the stage `captions` reads. Relative paths start at `root`.
    """

    def __init__(self, path: str | os.PathLike, root: str | os.PathLike | None = None, **options: Any):
        super().__init__(path, **options)
        self.root = Path(root).expanduser().absolute() if root is not None else self.path.parent

    def _places(self) -> Iterator[tuple[int, int, int]]:
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                end = offset + len(line)
                if not line.isspace():
                    yield offset, end, number
                offset = end

    def _where(self, places: list[Any]) -> tuple[Any, ...]:
        return places[0][0], places[-1][1], places[0][2]

    def read(self, unit: UnitRef) -> tuple[pa.Table, pa.Table]:
        """Read the lines of a unit; lines that are not a JSON object with a video are dropped."""
        start, end, first_line = unit.where
        with self.path.open("rb") as file:
            file.seek(start)
            lines = file.read(end - start).split(b"\n")
        reader = RowReader(str(self.root))
        for number, line in enumerate(lines, first_line):
            if line.strip():
                reader.add_json(line, f"line {number} of {self.path.name}")
        return reader.tables()

    def fingerprint(self) -> str:
        """Return the manifest's path, size and modification time."""
        return _file_fingerprint(self.path)


class ParquetInput(VideoInput):
    """A manifest as a Parquet file or a folder of them, with columns of `VIDEO_SCHEMA` or `CLIP_SCHEMA`.

    The shards of a dataset folder hold clips, so that more stages can run on an existing dataset. A process that reads
    units in order decodes the file once and holds a few hundred rows in memory.

    Raises:
        ValueError: if a file is not a Parquet file or has no usable column `video`, or if some files hold clips and
            others videos.
    """

    def __init__(self, path: str | os.PathLike, root: str | os.PathLike | None = None, **options: Any):
        super().__init__(path, **options)
        self.root = Path(root).expanduser().absolute() if root is not None else self.path.parent
        self.files = sorted(map(str, self.path.glob("*.parquet"))) if self.path.is_dir() else [str(self.path)]
        self.rows, self._with_times = [], []
        for file in self.files:
            n_rows, has_times = read_header(file)
            self.rows.append(n_rows)
            self._with_times.append(has_times)
        if any(has_times != self.holds_clips for has_times in self._with_times):
            odd = self.files[self._with_times.index(not self.holds_clips)]
            raise ValueError(
                f"{odd} holds {'videos' if self.holds_clips else 'clips'}, but {self.files[0]} "
                f"{'clips' if self.holds_clips else 'videos'}: expected one kind in a folder"
            )

    @property
    def holds_clips(self) -> bool:
        """Whether the rows are clips, which have a start and an end."""
        return self._with_times[0]

    def units(self) -> Iterator[UnitRef]:
        """Yield the work units, in the input's order."""
        first_rows = [0, *accumulate(self.rows)]  # of each file
        n_rows = first_rows[-1] if self.limit is None else min(first_rows[-1], self.limit)
        for number, start in enumerate(range(0, n_rows, self.unit_videos)):
            stop, where = min(start + self.unit_videos, n_rows), []
            file, row = bisect_right(first_rows, start) - 1, start
            while row < stop:
                end = min(stop, first_rows[file + 1])
                if end > row:
                    where.append((file, row - first_rows[file], end - row))
                file, row = file + 1, end
            yield UnitRef(number, stop - start, tuple(where))

    def read(self, unit: UnitRef) -> tuple[pa.Table, pa.Table]:
        """Read the rows of a unit; rows without a video are dropped."""
        reader = RowReader(str(self.root), self.schema)
        for number, start, count in unit.where:
            file = self.files[number]
            rows = _PARQUET_READERS.setdefault(file, ParquetReader(file)).read(start, count)
            reader.add_table(rows, Path(file).name, start)
        return reader.tables()

    def fingerprint(self) -> str:
        """Return the paths, sizes and modification times of the files."""
        return "; ".join(_file_fingerprint(Path(file)) for file in self.files)


class FolderInput(_ScannedInput):
    """A folder of videos with captions and metadata next to them: `NAME.mp4`, `NAME.en.json3`, `NAME.info.json`.

    Captions are json3, JSON, WebVTT or SubRip files named like the video, with or without a language. If a video has
    several, `captions.naming` chooses one, as in training on a folder. Metadata as yt-dlp writes it gives title,
    category, language and size. If only the metadata of a video was downloaded, its `video` is the page's URL. Hidden
    files, parts of a download such as `NAME.f137.mp4`, linked folders, and captions without a video are left out and
    reported.

    For millions of videos, write a manifest. A run walks a folder several times (for its fingerprint, with the size of
    every file; for the number of units; and for the units) and holds the names of one folder in memory at a time, some
    hundred megabytes for a million videos in one folder.
    """

    def __init__(self, path: str | os.PathLike, language: str | None = DEFAULT_LANGUAGE, **options: Any):
        super().__init__(path, **options)
        self.language = language
        self._left_out = LeftOut()

    def describe_left_out(self) -> list[str]:
        """Return a line on the files that are left out, if any; complete once `fingerprint` was called."""
        return [f"left out of {self.path}: {self._left_out}"] if self._left_out.counts else []

    def _places(self, left_out: LeftOut | None = None) -> Iterator[tuple[str, str | None, str | None]]:
        """Yield paths relative to the folder: the video (or its stem if it has no file), captions, metadata."""
        return walk_videos(self.path, self.language, left_out or LeftOut())

    def _where(self, places: list[Any]) -> tuple[Any, ...]:
        return tuple(places)

    def read(self, unit: UnitRef) -> tuple[pa.Table, pa.Table]:
        """Read the metadata of a unit; videos with invalid metadata are dropped."""
        reader = RowReader(str(self.path))
        for video, captions, info in unit.where:
            row = {"id": video, "video": video, "captions": captions}
            if info is None:
                reader.add(row, video)
                continue
            try:
                found = from_info_json(self.path / info)
            except ValueError as error:
                reader.drop(video, video, "malformed", str(error))
                continue
            page = found.pop("page")
            if Path(video).suffix.lower() not in VIDEO_SUFFIXES:
                row["video"] = page
            reader.add(row | found, info)
        return reader.tables()

    def fingerprint(self) -> str:
        """Return the path, the number of videos, and a digest of the names and sizes of the files."""
        digest, count = hashlib.sha256(), 0
        self._left_out = LeftOut()
        for place in self._places(self._left_out):
            sizes = [
                (self.path / name).stat().st_size if name and (self.path / name).is_file() else 0 for name in place
            ]
            digest.update(repr((place, sizes)).encode())
            count += 1
        return f"{self.path}, {count} videos, {digest.hexdigest()[:16]}"


def open_input(
    path: str | os.PathLike,
    unit_videos: int = UNIT_VIDEOS,
    limit: int | None = None,
    language: str | None = DEFAULT_LANGUAGE,
    root: str | os.PathLike | None = None,
) -> VideoInput:
    """Open a manifest or a folder of videos.

    Args:
        path: a `.jsonl` or `.parquet` file, a folder of Parquet files, or a folder of videos.
        unit_videos: videos in a work unit.
        limit: use only the first `limit` videos; `None`: all.
        language: preferred language of captions, if a video in a folder has several; `None`: no preference.
        root: folder at which relative paths of a manifest start; default: the manifest's folder.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if it is of another kind, or a Parquet file cannot be used.
    """
    path = Path(path).expanduser()
    options = {"unit_videos": unit_videos, "limit": limit}
    if not path.exists():
        raise FileNotFoundError(
            f"input {path} does not exist: expected a folder of videos, or a .jsonl or .parquet file"
        )
    if path.is_dir():
        if next(path.glob("*.parquet"), None) is not None:
            _check_no_language(path, language)
            _check_root(root)
            return ParquetInput(path, root=root, **options)
        if root is not None:
            raise ValueError(
                f"media_root={root}: not with the folder of videos {path}, which does not use it; leave it out"
            )
        return FolderInput(path, language=language, **options)
    _check_no_language(path, language)
    _check_root(root)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return JsonLinesInput(path, root=root, **options)
    if path.suffix.lower() == ".parquet":
        return ParquetInput(path, root=root, **options)
    raise ValueError(f"input {path} ends in {path.suffix!r}: expected a folder of videos, or a .jsonl or .parquet file")


def _check_no_language(manifest: Path, language: str | None) -> None:
    """Raise a ValueError if a language of captions was chosen for a manifest, whose rows name their captions."""
    if language not in (None, DEFAULT_LANGUAGE):
        raise ValueError(
            f"language={language}: not with {manifest}, whose rows name their captions; leave it out. "
            "metadata.language and language.language select videos by language"
        )


def _check_root(root: str | os.PathLike | None) -> None:
    if root is not None and not Path(root).expanduser().is_dir():
        raise ValueError(
            f"media_root={root} is not a folder: expected the one at which the manifest's relative paths start; "
            "default: the manifest's folder"
        )


def _file_fingerprint(path: Path) -> str:
    stat = path.stat()
    return f"{path}, {stat.st_size} bytes, {stat.st_mtime_ns}"
