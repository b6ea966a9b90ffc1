"""Where videos come from: a manifest, or a folder with captions and yt-dlp's metadata beside the videos.

An input is cut into work units of consecutive videos. A unit is named by a small reference, such as the place of its
lines in the manifest, and read where it is worked on, so that memory does not grow with the input.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.media import VIDEO_SUFFIXES
from ..data.words import CAPTION_SUFFIXES, NOT_CAPTIONS
from .input_rows import RowReader, from_info_json
from .records import CLIP_SCHEMA, SUBTITLES, VIDEO_SCHEMA

UNIT_VIDEOS = 256
_INFO_SUFFIX = ".info.json"
_PARQUET_ROWS = 256  # read at a time
_DATASET_NAMES = {"video_start": "start_s", "video_end": "end_s"}  # as a dataset folder has them
_PARQUET_READERS: dict[str, _ParquetReader] = {}  # of this process


@dataclass(frozen=True)
class UnitRef:
    """A work unit: which consecutive videos of the input it holds.

    Attributes:
        number: place among the units, from 0.
        items: how many videos, unreadable ones included.
        where: what the input finds them by.
    """

    number: int
    items: int
    where: tuple[Any, ...]


class VideoInput(ABC):
    """A stream of videos in work units. Small and picklable: units are read in other processes."""

    def __init__(self, path: str | os.PathLike, unit_videos: int = UNIT_VIDEOS, limit: int | None = None):
        if unit_videos < 1:
            raise ValueError(f"unit_videos is {unit_videos}; expected 1 or more, such as {UNIT_VIDEOS}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; expected 1 or more videos")
        self.path = Path(path).expanduser().absolute()
        self.unit_videos, self.limit = unit_videos, limit

    @abstractmethod
    def units(self) -> Iterator[UnitRef]:
        """Yields the work units, in the input's order."""

    @abstractmethod
    def read(self, unit: UnitRef) -> tuple[pa.Table, pa.Table]:
        """Reads a unit.

        Returns:
            Its videos in `VIDEO_SCHEMA` (or clips in `CLIP_SCHEMA`), and what could not be read, in `DROPPED_SCHEMA`.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns what changes when the input does."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of a unit."""
        return VIDEO_SCHEMA


class _ScannedInput(VideoInput):
    """An input whose videos are found one after the other."""

    def units(self) -> Iterator[UnitRef]:
        """Yields the work units, in the input's order."""
        places = self._places()
        if self.limit is not None:
            places = islice(places, self.limit)
        number = 0
        while group := list(islice(places, self.unit_videos)):
            yield UnitRef(number, len(group), self._where(group))
            number += 1

    @abstractmethod
    def _places(self) -> Iterator[Any]:
        """Yields where each video is."""

    @abstractmethod
    def _where(self, places: list[Any]) -> tuple[Any, ...]:
        """Returns where the videos of a unit are."""


class JsonLinesInput(_ScannedInput):
    """A manifest with one JSON object a line; keys are the columns of `VIDEO_SCHEMA`.

    `video` is required; `id` defaults to it. `words` are `[start, end, word]` or objects with these keys; `subtitles`
    are the same with lines of captions, for the stage `captions`. Relative paths start at `root`.
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
        """Reads the lines of a unit; a line that is no JSON object with a video is dropped with its number."""
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
        """Returns the manifest's path, size and time of change."""
        return _file_fingerprint(self.path)


class ParquetInput(VideoInput):
    """A manifest as a Parquet file, or a folder of them: columns of `VIDEO_SCHEMA`, or of `CLIP_SCHEMA` for clips.

    The shards of a dataset folder are clips too: later stages can run on what earlier ones made elsewhere.

    A process that reads one unit after the other decodes the file once and holds a few hundred rows of it.
    """

    def __init__(self, path: str | os.PathLike, root: str | os.PathLike | None = None, **options: Any):
        super().__init__(path, **options)
        self.root = Path(root).expanduser().absolute() if root is not None else self.path.parent
        self.files = sorted(map(str, self.path.glob("*.parquet"))) if self.path.is_dir() else [str(self.path)]
        try:
            headers = [pq.ParquetFile(file) for file in self.files]
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.path} is not Parquet: {error}") from error
        self.rows = [header.metadata.num_rows for header in headers]
        names = {_DATASET_NAMES.get(name, name) for name in headers[0].schema_arrow.names}
        self.holds_clips = {"start_s", "end_s"} <= names
        if "video" not in names:
            raise ValueError(f"{self.path} has no column 'video'; it has: {', '.join(sorted(names))}")

    @property
    def schema(self) -> pa.Schema:
        """Columns of a unit: of clips, where the file has their times."""
        return CLIP_SCHEMA if self.holds_clips else VIDEO_SCHEMA

    def units(self) -> Iterator[UnitRef]:
        """Yields the work units, in the input's order: where they are follows from the numbers of rows."""
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
        """Reads the rows of a unit; a row without a video is dropped with its number."""
        reader = RowReader(str(self.root), self.schema)
        for number, start, count in unit.where:
            file = self.files[number]
            rows = _PARQUET_READERS.setdefault(file, _ParquetReader(file)).read(start, count)
            reader.add_table(rows, Path(file).name, start)
        return reader.tables()

    def fingerprint(self) -> str:
        """Returns the paths, sizes and times of change of the files."""
        return "; ".join(_file_fingerprint(Path(file)) for file in self.files)


class FolderInput(_ScannedInput):
    """A folder of videos with what belongs to them beside them: `NAME.mp4`, `NAME.en.json3`, `NAME.info.json`.

    Captions are json3, JSON, WebVTT or SubRip, by the video's name alone or with a language between; those of
    `language` and without one come first, of these those by the video's name alone, then in the order of the formats.
    Metadata as yt-dlp writes it gives title, category, language and size. A video that was not downloaded, of which
    there is only the metadata, is named by its page's address.

    For millions of videos write a manifest: a folder is walked three times in a run (for its fingerprint with the size
    of every file, for the number of units, and for the units), and the names of one folder are in memory at a time:
    some hundred megabytes for a million videos in one.
    """

    def __init__(self, path: str | os.PathLike, language: str | None = "en", **options: Any):
        super().__init__(path, **options)
        self.language = language

    def _places(self) -> Iterator[tuple[str, str | None, str | None]]:
        """Yields names relative to the folder: video (or stem without one), captions, metadata."""
        for folder, subfolders, names in os.walk(self.path):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))  # half-written datasets
            base = os.path.relpath(folder, self.path)
            prefix = "" if base == "." else f"{base}/"
            names.sort(key=_first_part)
            # What belongs together has all up to the first dot in common, so that only these names are held twice.
            for _, group in groupby(names, _first_part):
                for video, captions, info in _group_names(sorted(group), self.language):
                    yield f"{prefix}{video}", captions and f"{prefix}{captions}", info and f"{prefix}{info}"

    def _where(self, places: list[Any]) -> tuple[Any, ...]:
        return tuple(places)

    def read(self, unit: UnitRef) -> tuple[pa.Table, pa.Table]:
        """Reads the metadata of a unit; a video whose metadata is no JSON is dropped."""
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
        """Returns a digest of the names and sizes of the files."""
        digest, count = hashlib.sha256(), 0
        for place in self._places():
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
    language: str | None = "en",
    root: str | os.PathLike | None = None,
) -> VideoInput:
    """Open a manifest or a folder of videos.

    Args:
        path: a `.jsonl` or `.parquet` file, a folder of Parquet files, or a folder of videos.
        unit_videos: videos of a work unit.
        limit: only the first so many videos.
        language: captions in this language are preferred, where a video of a folder has several.
        root: where relative paths in a manifest start; default: its folder.

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


class _ParquetReader:
    """Rows of a Parquet file by number; cheap when asked in order."""

    def __init__(self, file: str):
        self.file = file
        self._next_row = 0
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._rest: pa.Table | None = None

    def read(self, start: int, count: int) -> pa.Table:
        if self._batches is None or start < self._next_row:
            self._open(start)
        parts, wanted_end = [], start + count
        while self._next_row < wanted_end:
            if self._rest is None or not len(self._rest):
                self._rest = pa.Table.from_batches([next(self._batches)])
            skip = max(start - self._next_row, 0)
            take = min(wanted_end - self._next_row, len(self._rest))
            if take > skip:
                parts.append(self._rest.slice(skip, take - skip))
            self._rest = self._rest.slice(take)
            self._next_row += take
        table = pa.concat_tables(parts)
        return table.rename_columns([_DATASET_NAMES.get(name, name) for name in table.column_names])

    def _open(self, start: int) -> None:
        """Begin at the row group that holds the row."""
        file = pq.ParquetFile(self.file)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        group, begin = 0, 0
        while group < len(sizes) - 1 and begin + sizes[group] <= start:
            begin += sizes[group]
            group += 1
        known = {*VIDEO_SCHEMA.names, *CLIP_SCHEMA.names, *_DATASET_NAMES, SUBTITLES}
        columns = [name for name in file.schema_arrow.names if name in known]
        self._batches = file.iter_batches(_PARQUET_ROWS, row_groups=list(range(group, len(sizes))), columns=columns)
        self._next_row, self._rest = begin, None


def _group_names(names: list[str], language: str | None) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield the videos of a folder with the names of their captions and metadata."""
    videos = [name for name in names if _split_suffix(name)[1].lower() in VIDEO_SUFFIXES]
    infos = {name[: -len(_INFO_SUFFIX)]: name for name in names if name.endswith(_INFO_SUFFIX)}
    stems = {_split_suffix(name)[0] for name in videos}
    captions = defaultdict(list)
    for name in names:
        stem, suffix = _split_suffix(name)
        if suffix.lower() not in CAPTION_SUFFIXES or name.endswith(NOT_CAPTIONS):
            continue
        # "a.b.en.vtt" belongs to "a.b.mp4", whose own name may hold dots.
        tag = ""
        if stem not in stems and stem not in infos:
            stem, _, tag = stem.rpartition(".")
        captions[stem].append((name, tag, suffix.lower()))
    items = [(_split_suffix(video)[0], video) for video in videos]
    items += [(stem, stem) for stem in infos if stem not in stems]
    for stem, video in sorted(items):
        found = min(captions.get(stem, ()), key=lambda item: _preference(item, language), default=None)
        yield video, found and found[0], infos.get(stem)


def _first_part(name: str) -> str:
    return name.partition(".")[0]


def _split_suffix(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix) if stem else (name, "")


def _preference(item: tuple[str, str, str], language: str | None) -> tuple[bool, bool, int, str]:
    """Return what orders the captions of a video: training on a folder chooses in the same order."""
    name, tag, suffix = item
    is_wanted = language is None or not tag or tag.split("-")[0].lower() == language.split("-")[0].lower()
    return (not is_wanted, bool(tag), CAPTION_SUFFIXES.index(suffix), name)


def _file_fingerprint(path: Path) -> str:
    stat = path.stat()
    return f"{path}, {stat.st_size} bytes, {stat.st_mtime_ns}"
