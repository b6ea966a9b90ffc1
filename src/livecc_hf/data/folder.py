"""A folder of narrated videos: each with a caption file of the same name beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..captions.files import read_words
from ..captions.naming import CAPTION_SUFFIXES, NOT_CAPTIONS, VIDEO_SUFFIXES, is_download_part
from .clip_spans import ClipSpan, split_into_clips
from .conversations import NarratedVideo
from .unusable import UnusableSample


@dataclass(frozen=True)
class CaptionedVideo:
    """A video and the captions beside it, both paths relative to the folder."""

    video: Path
    captions: Path


def find_captioned_videos(folder: str | os.PathLike) -> tuple[list[CaptionedVideo], list[Path]]:
    """List the videos below a folder, by name.

    Captions are `NAME.json`, `NAME.vtt` or `NAME.srt` beside `NAME.mp4` (or another video), also with a language
    between, such as `NAME.en.vtt`; the first of these wins.

    Returns:
        Videos with captions, and videos without.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is no video with captions in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: expected one with videos and captions beside them")
    found, bare = [], []
    for video in sorted(path for path in folder.rglob("*") if _is_video(path)):
        captions = next(_captions_of(video), None)
        if captions is None:
            bare.append(video.relative_to(folder))
        else:
            found.append(CaptionedVideo(video.relative_to(folder), captions.relative_to(folder)))
    if not found:
        raise ValueError(
            f"{folder} holds {len(bare)} videos and none has captions: expected NAME.json, NAME.vtt or NAME.srt beside "
            "NAME.mp4"
        )
    return found, bare


def _is_video(path: Path) -> bool:
    """Return whether a name is a video's, and not of a hidden file (macOS writes `._NAME`) or a part of a download."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and not is_download_part(path.name)


def _captions_of(video: Path) -> Iterator[Path]:
    for suffix in CAPTION_SUFFIXES:
        plain = video.with_suffix(suffix)
        if plain.is_file():
            yield plain
    beside = sorted(path for path in video.parent.iterdir() if path.name.startswith(f"{video.stem}."))
    beside = [path for path in beside if not path.name.endswith(NOT_CAPTIONS)]
    for suffix in CAPTION_SUFFIXES:
        yield from (path for path in beside if path.suffix.lower() == suffix and path.name.count(".") > 1)


@dataclass(frozen=True)
class CaptionedFolder:
    """A folder of narrated videos, cut into clips that are reached by number.

    Attributes:
        folder: where it is.
        videos: its videos and their captions.
        bare: videos without captions.
        rows: int32 (clips, 2), for each clip the number of its video and its number in the video. A video whose
            captions hold no word or cannot be read has one row, which `load` refuses: nothing is left out silently.
        limits: the options of `split_into_clips`.
    """

    folder: Path
    videos: list[CaptionedVideo]
    bare: list[Path]
    rows: np.ndarray
    limits: dict[str, float]

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, row: int, query: str | None = None) -> NarratedVideo:
        """Read the words of a clip.

        Args:
            row: number of the clip.
            query: what the commentary is asked for; `None`: the processor's default.

        Raises:
            IndexError: if there is no such clip.
            UnusableSample: "missing_file", "malformed" or "no_words", if the captions say nothing of use.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"clip {row} of {self.folder}: it has {len(self)} clips")
        video, clip = (int(number) for number in self.rows[row])
        captioned = self.videos[video]
        captions = self.folder / captioned.captions
        spans = _clips_of(captions, self.limits)
        if not spans:
            raise UnusableSample("no_words", f"{captions} holds no word")
        if clip >= len(spans):
            raise UnusableSample("malformed", f"{captions} has changed: it no longer makes {clip + 1} clips")
        span = spans[clip]
        return NarratedVideo(
            str(self.folder / captioned.video), span.words, span.start_s, span.end_s, query, previous=span.previous
        )


def open_folder(folder: str | os.PathLike, **limits: float) -> CaptionedFolder:
    """Cut the videos of a folder into clips; captions are read once to count them, and again when a clip is loaded.

    Args:
        folder: see `find_captioned_videos`.
        limits: `max_s`, `min_s` and `max_gap_s` of `split_into_clips`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is no video with captions in it, or a limit makes no sense.
    """
    split_into_clips([], **limits)
    folder = Path(folder).expanduser().absolute()
    videos, bare = find_captioned_videos(folder)
    counts = []
    for captioned in videos:
        try:
            spans = _clips_of(folder / captioned.captions, limits)
        except UnusableSample:
            spans = []
        counts.append(max(len(spans), 1))
    video_of = np.repeat(np.arange(len(videos), dtype=np.int32), counts)
    clip_of = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    return CaptionedFolder(folder, videos, bare, np.stack([video_of, clip_of], axis=1), limits)


def _clips_of(captions: Path, limits: dict[str, float]) -> list[ClipSpan]:
    try:
        return _clips_once(captions, captions.stat().st_mtime_ns, tuple(limits.items()))
    except FileNotFoundError as error:
        raise UnusableSample("missing_file", f"captions {captions} do not exist") from error
    except ValueError as error:
        raise UnusableSample("malformed", str(error)) from error


@lru_cache(maxsize=8)
def _clips_once(captions: Path, mtime_ns: int, limits: tuple[tuple[str, float], ...]) -> list[ClipSpan]:
    """Cut a file's words once for the clips that are asked for one after the other."""
    return split_into_clips(read_words(captions), **dict(limits))
