"""Inputs of videos: a manifest, or a folder with captions and yt-dlp's metadata beside the videos.

An input is divided into work units of consecutive videos. A unit is passed on as a small reference, such as the
position of its lines in the manifest, and is read by the process that works on it, so that memory does not grow with
the input.
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
    """A reference to a work unit, some consecutive videos of the input.

    Attributes:
        number: of the unit, from 0.
        items: number of its videos, including unreadable ones.
        where: the positions at which the input finds them.
    """

    number: int
    items: int
    where: tuple[Any, ...]


class VideoInput(ABC):
    """An input of videos in work units. Small and picklable, since units are read in other processes."""

    def __init__(self, path: str | os.PathLike, unit_videos: int = UNIT_VIDEOS, limit: int | None = None):
        if unit_videos < 1:
            raise ValueError(f"unit_videos is {unit_videos}; expected 1 or more, such as {UNIT_VIDEOS}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; expected 1 or more videos")
        self.path = Path(path).expanduser().absolute()
        self.unit_videos, self.limit = unit_videos, limit

    @abstractmethod
    def units(self) -> Iterator[UnitRef]:
        """Yield the work units, in the input's order."""

    @abstractmethod
    def read(self, unit: UnitRef) -> tuple[pa.Table, pa.Table]:
        """Read a unit.

        Returns:
            Its videos in `VIDEO_SCHEMA` (or clips in `CLIP_SCHEMA`), and those that could not be read, in
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
        """Columns of a unit."""
        return CLIP_SCHEMA if self.holds_clips else VIDEO_SCHEMA

    def describe_left_out(self) -> list[str]:
        """Return lines for a reader on the files that are left out; known once `fingerprint` was called."""
        return []


class _ScannedInput(VideoInput):
    """An input that is scanned for its videos."""

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
    """A manifest with one JSON object a line, whose keys are the columns of `VIDEO_SCHEMA`.

    `video` is required; `id` defaults to it. `words` is a list of `[start, end, word]` or of objects with these keys;
    `subtitles` is the same for lines of captions, which stage `captions` reads. Relative paths start at `root`.
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
        """Read the lines of a unit; a line that is not a JSON object with a video is dropped, with its number."""
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
    """A manifest as a Parquet file, or a folder of them, with the columns of `VIDEO_SCHEMA`, or of `CLIP_SCHEMA`.

    The shards of a dataset folder hold clips, so that more stages can run on a dataset that exists.

    A process that reads one unit after the other decodes the file once and holds a few hundred rows in memory.
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
                f"{odd} holds {'videos' if self.holds_clips else 'clips'}, and {self.files[0]} "
                f"{'clips' if self.holds_clips else 'videos'}: expected one kind in a folder"
            )

    @property
    def holds_clips(self) -> bool:
        """Whether the rows are clips, which have a start and an end."""
        return self._with_times[0]

    def units(self) -> Iterator[UnitRef]:
        """Yield the work units, in the input's order, from the number of rows of each file."""
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
        """Read the rows of a unit; a row without a video is dropped, with its number."""
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
    """A folder of videos with their captions and metadata beside them: `NAME.mp4`, `NAME.en.json3`, `NAME.info.json`.

    Captions are json3, JSON, WebVTT or SubRip, named like the video, with or without a language; `captions.naming`
    chooses among several, as in training on a folder. Metadata as yt-dlp writes it gives title, category, language and
    size. A video of which only the metadata was downloaded is named by its page's address. Hidden files, parts of a
    download such as `NAME.f137.mp4`, linked folders, and captions without a video are left out and reported.

    For millions of videos write a manifest: a run walks a folder three times (for its fingerprint, with the size of
    every file; for the number of units; and for the units), and holds the names of one folder in memory at a time,
    some hundred megabytes for a million videos in one folder.
    """

    def __init__(self, path: str | os.PathLike, language: str | None = DEFAULT_LANGUAGE, **options: Any):
        super().__init__(path, **options)
        self.language = language
        self._left_out = LeftOut()

    def describe_left_out(self) -> list[str]:
        """Return a line on the files that are left out, if there are any."""
        return [f"left out of {self.path}: {self._left_out}"] if self._left_out.counts else []

    def _places(self, left_out: LeftOut | None = None) -> Iterator[tuple[str, str | None, str | None]]:
        """Yield names relative to the folder: the video (or its stem if there is none), captions, metadata."""
        return walk_videos(self.path, self.language, left_out or LeftOut())

    def _where(self, places: list[Any]) -> tuple[Any, ...]:
        return tuple(places)

    def read(self, unit: UnitRef) -> tuple[pa.Table, pa.Table]:
        """Read the metadata of a unit; a video whose metadata is not JSON is dropped."""
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
        """Return a digest of the names and sizes of the files."""
        digest, count = hashlib.sha256(), 0
        self._left_out = LeftOut()
        for place in self._places(self._left_out):
            sizes = [
                (self.path / name).stat().st_size if name and (self.path / name).is_file() else 0 for name in place
            ]
            digest.update(repr((place, sizes)).encode())
            count += 1
        if not count:
            raise ValueError(
                f"{self.path} holds no video: expected files such as NAME.mp4, with captions such as NAME.en.vtt and "
                "metadata NAME.info.json beside them"
            )
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
        limit: use only the first `limit` videos.
        language: preferred language of captions, if a video in a folder has several.
        root: of relative paths in a manifest; default: its folder.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if it is neither, or holds no video.
    """
    path = Path(path).expanduser()
    options = {"unit_videos": unit_videos, "limit": limit}
    if not path.exists():
        raise FileNotFoundError(
            f"input {path} does not exist: expected a folder of videos, or a .jsonl or .parquet file"
        )
    if path.is_dir():
        if next(path.glob("*.parquet"), None) is not None:
            return ParquetInput(path, root=root, **options)
        return FolderInput(path, language=language, **options)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return JsonLinesInput(path, root=root, **options)
    if path.suffix.lower() == ".parquet":
        return ParquetInput(path, root=root, **options)
    raise ValueError(f"input {path} ends in {path.suffix!r}: expected a folder of videos, or a .jsonl or .parquet file")


def _file_fingerprint(path: Path) -> str:
    stat = path.stat()
    return f"{path}, {stat.st_size} bytes, {stat.st_mtime_ns}"
