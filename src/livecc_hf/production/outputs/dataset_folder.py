"""Writes a dataset folder: Parquet shards, the conversations file, the card, and optionally the videos."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...data.media.paths import local_path
from ...utils.atomic import atomic_write
from ...utils.reports import Say
from ...utils.text import counted, first_bytes
from ..schemas import CLIP_SCHEMA, DROPPED_SCHEMA
from ..stages.base import split
from .card import DatasetAbout, DatasetSummary, make_card
from .published_formats import DATASET_SCHEMA, JsonlWriter, open_jsonl, write_parquet
from .video_check import why_no_video

STAGE = "dataset"  # the stage's name in dropped rows
VIDEOS = "videos"  # the subfolder of videos
_JSONL = "conversations.jsonl"
_STEM_BYTES = 200  # of a video's name that gets a hash: file systems allow 255 bytes
_PLACES = ("leave", "link", "copy")


@dataclass(frozen=True)
class FolderOptions:
    """Options of a dataset folder."""

    videos: str = field(
        default="leave",
        metadata={"help": "leave: keep the paths; link, copy: put the videos into the subfolder videos/."},
    )
    media_root: str | None = field(
        default=None, metadata={"help": "Folder at which relative video paths start; default: the working folder."}
    )
    video_feature: bool = field(
        default=False, metadata={"help": "Declare the column video as a Video feature, so that viewers show it."}
    )
    jsonl: bool = field(default=True, metadata={"help": "Also write the conversations file."})
    clips_per_shard: int = field(default=10_000, metadata={"help": "Clips in one Parquet file."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a dataset in the folder."})

    def __post_init__(self) -> None:
        if self.videos not in _PLACES:
            raise ValueError(f"videos={self.videos!r}: expected one of {', '.join(_PLACES)}")
        if self.clips_per_shard < 1:
            raise ValueError(f"clips_per_shard={self.clips_per_shard}: expected 1 or more")


class NoClipError(ValueError):
    """No clip is left for a dataset.

    Attributes:
        dropped: clips left out because their file does not exist or is not a video, in `DROPPED_SCHEMA`.
    """

    def __init__(self, message: str, dropped: pa.Table):
        super().__init__(message)
        self.dropped = dropped


@dataclass(frozen=True)
class WrittenDataset:
    """The result of `write_dataset_folder`.

    Attributes:
        folder: of the dataset.
        summary: counts of the dataset.
        dropped: clips left out because their file does not exist or is not a video, in `DROPPED_SCHEMA`; empty unless
            videos are put into the folder.
    """

    folder: Path
    summary: DatasetSummary
    dropped: pa.Table


def write_dataset_folder(
    folder: str | os.PathLike,
    clips: Iterable[pa.Table],
    about: DatasetAbout,
    options: FolderOptions | None = None,
    say: Say | None = None,
    say_every_s: float = 10.0,
) -> WrittenDataset:
    """Write clips as a folder that `datasets.load_dataset` opens and `push_dataset` uploads.

    It holds `data/*.parquet`, `conversations.jsonl` and `README.md`. If videos are linked or copied, it also holds
    `videos/`, and the column `video` is relative to the folder. A temporary folder next to it is written first, and
    renamed when complete. A call after a killed one writes everything again, except videos that are in place already.

    Args:
        folder: to write.
        clips: tables in `CLIP_SCHEMA`; one shard of them is in memory at a time.
        about: the parts of the card that cannot be derived from the clips.
        options: see `FolderOptions`.
        say: called with lines of progress, since copying many videos takes long; default: none.
        say_every_s: least seconds between these lines.

    Raises:
        NoClipError: if no clip is left; an older dataset stays in place.
        ValueError: if a table has other columns, or `folder` holds anything but a dataset.
    """
    options = options or FolderOptions()
    folder = Path(folder).expanduser().absolute()
    _check_place(folder, options.overwrite)
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for left in partial.iterdir():
        if left.name != VIDEOS or options.videos == "leave":
            _remove(left)
    writer = _FolderWriter(partial, options, say, say_every_s)
    try:
        summary = writer.write(clips)
    except NoClipError:
        _remove(partial)
        raise
    is_placed = options.videos != "leave"
    features = _features() if options.video_feature else None
    about = replace(about, funnel=_whole_funnel(about.funnel, summary))
    card = make_card(
        about,
        summary,
        features=features,
        has_videos=is_placed,
        has_jsonl=options.jsonl,
        content_id=_content_id(partial / "data"),
    )
    with atomic_write(partial / "README.md") as file:
        card.save(file)
    _move(partial, folder)
    return WrittenDataset(folder, summary, writer.all_dropped())


def _whole_funnel(
    funnel: Mapping[str, Mapping[str, float | None]], summary: DatasetSummary
) -> Mapping[str, Mapping[str, float | None]]:
    """Return the funnel, with a line for the dataset if it leaves out clips, such as those without a file."""
    last = next(reversed([*funnel.values()]), None)
    if last is None or last["items_out"] == summary.n_clips:
        return funnel
    line = {
        "items_in": last["items_out"],
        "items_out": summary.n_clips,
        "hours_in": last.get("hours_out"),
        "hours_out": summary.hours,
    }
    return {**funnel, STAGE: line}


@dataclass(frozen=True)
class _Unplaced:
    """Why a video is not put into the folder."""

    reason: str
    detail: str


class _FolderWriter:
    """Streams clips to shards and the conversations file, and counts them."""

    def __init__(self, folder: Path, options: FolderOptions, say: Say | None, say_every_s: float):
        self.folder = folder
        self.options = options
        self._say, self._say_every_s, self._said_at_s = say, say_every_s, time.monotonic()
        self.dropped: list[pa.Table] = []
        self._n_shards = 0
        self._n_clips = 0
        self._n_words = 0
        self._seconds = 0.0
        self._videos = np.empty(0, np.uint64)  # hashes: millions of paths would be gigabytes
        self._placed: set[Path] = set()

    def write(self, clips: Iterable[pa.Table]) -> DatasetSummary:
        place: AbstractContextManager[JsonlWriter | None] = nullcontext()
        if self.options.jsonl:
            place = open_jsonl(self.folder / _JSONL)
        with place as jsonl:
            self._write_shards(clips, jsonl)
            if not self._n_clips:
                raise NoClipError(
                    "there is no clip for the dataset: all were dropped, or none were given", self.all_dropped()
                )
        if self.options.videos != "leave":
            self._remove_others()
        return DatasetSummary(self._n_clips, len(self._videos), self._n_words, self._seconds / 3600)

    def all_dropped(self) -> pa.Table:
        """Return the clips left out so far, in `DROPPED_SCHEMA`."""
        return pa.concat_tables([DROPPED_SCHEMA.empty_table(), *self.dropped])

    def _write_shards(self, clips: Iterable[pa.Table], jsonl: JsonlWriter | None) -> None:
        for shard in _regroup(clips, self.options.clips_per_shard):
            shard = self._place_videos(shard)
            if not len(shard):
                continue
            if jsonl is not None:
                jsonl.write(shard)
            write_parquet(self.folder / "data" / f"train-{self._n_shards:05d}.parquet", shard)
            self._n_shards += 1
            self._count(shard)

    def _count(self, shard: pa.Table) -> None:
        self._n_clips += len(shard)
        self._n_words += pc.sum(pc.list_value_length(shard["words"])).as_py() or 0
        self._seconds += pc.sum(pc.subtract(shard["end_s"], shard["start_s"])).as_py() or 0.0
        names = pc.unique(shard["video"]).to_pylist()
        hashes = [int.from_bytes(_digest(str(name))[:8], "little") for name in names]
        self._videos = np.union1d(self._videos, np.array(hashes, np.uint64))
        self._say_if_due()

    def _say_if_due(self) -> None:
        if self._say is not None and time.monotonic() - self._said_at_s >= self._say_every_s:
            self._said_at_s = time.monotonic()
            placed = f", {counted(len(self._placed), 'video')} in the folder" if self._placed else ""
            self._say(f"{counted(self._n_clips, 'clip')} written{placed}")

    def _place_videos(self, shard: pa.Table) -> pa.Table:
        """Put the videos of a shard into the folder; return the shard without clips that have no usable video."""
        if self.options.videos == "leave" or not len(shard):
            return shard
        encoded = shard["video"].combine_chunks().dictionary_encode()
        placed = [self._place(video) for video in encoded.dictionary.to_pylist()]
        places = [placed[number] for number in encoded.indices.to_numpy(zero_copy_only=False)]
        reasons = np.array([None if isinstance(place, str) else place.reason for place in places], dtype=object)
        details = [None if isinstance(place, str) else place.detail for place in places]
        result = split(STAGE, shard, reasons, details=details)
        self.dropped.append(result.dropped)
        videos = pa.array([place for place in places if isinstance(place, str)], pa.string())
        return result.kept.set_column(CLIP_SCHEMA.get_field_index("video"), CLIP_SCHEMA.field("video"), videos)

    def _place(self, video: str) -> str | _Unplaced:
        """Put a video into the folder and return its path there, or why it is not put there."""
        if is_on_the_web(video):  # works from anywhere
            return video
        path = local_path(video)
        source = Path(self.options.media_root or ".").expanduser() / path
        if not source.is_file():
            return _Unplaced("missing_video", f"{video} is not a file")
        if detail := why_no_video(source):  # a manifest may name any file, and the folder may be published
            return _Unplaced("not_a_video", detail)
        target = PurePosixPath(VIDEOS) / _name_in_folder(path, source)
        place = self.folder / target
        self._placed.add(place)
        _put(source.resolve(), place, self.options.videos == "link")
        self._say_if_due()
        return str(target)

    def _remove_others(self) -> None:
        """Remove videos that an earlier call with other clips left."""
        for file in (self.folder / VIDEOS).rglob("*"):
            if file not in self._placed and (file.is_symlink() or not file.is_dir()):
                file.unlink()


def _regroup(clips: Iterable[pa.Table], n_rows: int) -> Iterator[pa.Table]:
    """Yield the rows of all tables in tables of `n_rows`; the last one may be smaller."""
    waiting: list[pa.Table] = []
    n_waiting = 0
    for table in clips:
        while n_waiting + len(table) >= n_rows:
            head = table.slice(0, n_rows - n_waiting)
            yield pa.concat_tables([*waiting, head]).combine_chunks()
            table = table.slice(len(head))
            waiting, n_waiting = [], 0
        if len(table):
            waiting.append(table)
            n_waiting += len(table)
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def is_on_the_web(video: str) -> bool:
    """Return whether a video is a URL that others can read, unlike `file://`."""
    return "://" in video and not video.startswith("file://")


def _name_in_folder(video: Path, source: Path) -> PurePosixPath:
    """Return the path below `videos/`: most relative paths stay; others get a hash, to be unique."""
    if _may_stay(video):
        return PurePosixPath(video.as_posix())
    digest = _digest(str(source.resolve())).hex()
    stem = first_bytes(source.stem.lstrip("."), _STEM_BYTES)
    return PurePosixPath(digest[:2]) / f"{stem}-{digest[:8]}{source.suffix}"  # at most 256 folders


def _may_stay(path: PurePath) -> bool:
    """Return whether a path can be used below `videos/`: relative, inside the root, and not hidden.

    Hidden files are not published.
    """
    is_home = path.parts[:1] and path.parts[0].startswith("~")
    return not path.anchor and not is_home and not any(part.startswith(".") for part in path.parts)


def _put(source: Path, place: Path, is_link: bool) -> None:
    """Link or copy a file, unless that was done before."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if is_link:
        if not (place.is_symlink() and place.readlink() == source):
            place.unlink(missing_ok=True)
            place.symlink_to(source)
        return
    stat = source.stat()
    if place.is_file() and not place.is_symlink():
        there = place.stat()
        if (there.st_size, there.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return
    place.unlink(missing_ok=True)
    with atomic_write(place) as partial:
        shutil.copy2(source, partial)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _content_id(data: Path) -> str:
    """Return a digest of the shards' content."""
    digest = hashlib.sha256()
    for shard in sorted(data.iterdir()):
        with shard.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _features() -> list[dict[str, Any]]:
    """Return the columns in the form of a card's YAML, with `video` as a Video feature."""
    from datasets import Features, Video

    features = Features.from_arrow_schema(DATASET_SCHEMA)
    features["video"] = Video()
    return features._to_yaml_list()


def _is_ours(folder: Path) -> bool:
    """Return whether this module wrote the dataset in a folder, even if files are missing."""
    card = folder / "README.md"
    is_our_card = card.is_file() and "livecc-hf" in card.read_text(encoding="utf-8", errors="replace")
    return is_our_card or any(folder.glob("data/train-*.parquet"))


def _check_place(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: expected a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{folder} is not empty: choose another folder, or overwrite=True to replace a dataset")
    if not _is_ours(folder):
        raise ValueError(f"{folder} holds something other than a dataset, so it is not replaced: choose another folder")


def _move(partial: Path, folder: Path) -> None:
    """Rename the finished folder to its place; an older dataset stays there until then."""
    old = folder.with_name(f".{folder.name}.old")
    _remove(old)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
