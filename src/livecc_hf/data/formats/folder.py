"""Reads a folder of narrated videos, each with a caption file of the same name next to it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...captions.files import read_words_and_lost
from ...captions.naming import DEFAULT_LANGUAGE, VIDEO_SUFFIXES, LeftOut, walk_videos
from ...captions.words import Lost
from ..media.paths import expand_user
from ..unusable import UnusableSample
from .clip_spans import ClipSpan, split_into_clips
from .conversations import NarratedVideo


@dataclass(frozen=True)
class CaptionedVideo:
    """A video and its caption file, as paths relative to their folder."""

    video: Path
    captions: Path


def find_captioned_videos(
    folder: str | os.PathLike, language: str | None = DEFAULT_LANGUAGE, left_out: LeftOut | None = None
) -> tuple[list[CaptionedVideo], list[Path]]:
    """List the videos below a folder, sorted by path.

    Captions are `NAME.json3`, `NAME.json`, `NAME.vtt` or `NAME.srt` next to `NAME.mp4` (or another video format), or
    have a language in their name, such as `NAME.en.vtt`. If a video has several, `captions.naming` chooses one.

    Args:
        folder: the folder, which is searched with its subfolders.
        language: preferred language of captions, such as "en" or "pt-BR"; `None` for any.
        left_out: counts the files that look like input but are skipped.

    Returns:
        The videos with captions, and the videos without.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if no video in the folder has captions, or the language is unknown.
    """
    folder = expand_user(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: expected one with videos, and captions next to them")
    left_out = LeftOut() if left_out is None else left_out
    found, bare = [], []
    for video, captions, _ in walk_videos(folder, language, left_out):
        if Path(video).suffix.lower() not in VIDEO_SUFFIXES:  # a stem: only its metadata exists
            continue
        if captions is None:
            bare.append(Path(video))
        else:
            found.append(CaptionedVideo(Path(video), Path(captions)))
    if not found:
        which = f"none of the {len(bare)} videos in {folder} has captions" if bare else f"{folder} holds no videos"
        raise ValueError(
            f"{which}: expected NAME.json, NAME.vtt or NAME.srt next "
            f"to NAME.mp4{f'; left out: {left_out}' if left_out.counts else ''}"
        )
    return sorted(found, key=lambda captioned: captioned.video), sorted(bare)


@dataclass(frozen=True)
class CaptionedFolder:
    """A folder of narrated videos, split into clips.

    Attributes:
        folder: path of the folder.
        videos: the videos with captions.
        bare: the videos without captions.
        rows: int32 (clips, 2), for each clip the index of its video, and the index of the clip in the video. A video
            whose captions are empty or cannot be read has one row, for which `load` raises, so that it is reported.
        limits: the options of `split_into_clips`.
        remarks: messages about captions that cannot be used, and files that are left out.
    """

    folder: Path
    videos: list[CaptionedVideo]
    bare: list[Path]
    rows: np.ndarray
    limits: dict[str, float]
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, row: int, query: str | None = None) -> NarratedVideo:
        """Read the words of a clip.

        Args:
            row: index of the clip.
            query: the user's request; `None` for the processor's default.

        Raises:
            IndexError: if the clip does not exist.
            UnusableSample: "missing_file", "malformed" or "no_words", if the captions cannot be used.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"clip {row} of {self.folder}: it has {len(self)} clips")
        video, clip = (int(number) for number in self.rows[row])
        captioned = self.videos[video]
        captions = self.folder / captioned.captions
        spans, _ = _clips_of(captions, self.limits)
        if not spans:
            raise UnusableSample("no_words", f"{captions} contains no words")
        if clip >= len(spans):
            raise UnusableSample("malformed", f"{captions} has changed: it no longer gives {clip + 1} clips")
        span = spans[clip]
        return NarratedVideo(
            str(self.folder / captioned.video), span.words, span.start_s, span.end_s, query, previous=span.previous
        )


def open_folder(folder: str | os.PathLike, language: str | None = DEFAULT_LANGUAGE, **limits: float) -> CaptionedFolder:
    """Split the videos of a folder into clips.

    Captions are read once to count clips, and again when a clip is loaded.

    Args:
        folder, language: see `find_captioned_videos`.
        limits: `max_s`, `min_s` and `max_gap_s` of `split_into_clips`.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if no video in the folder has captions, or the language or a limit is invalid.
    """
    split_into_clips([], **limits)  # checks the limits
    folder = expand_user(folder).absolute()
    left_out = LeftOut()
    videos, bare = find_captioned_videos(folder, language, left_out)
    counts: list[int] = []
    n_spans = 0
    remarks = [f"left out of {folder}: {left_out}"] if left_out.counts else []
    for captioned in videos:
        lost: Lost | UnusableSample | None
        try:
            spans, lost = _clips_of(folder / captioned.captions, limits)
        except UnusableSample as error:
            spans, lost = [], error
        counts.append(max(len(spans), 1))
        n_spans += len(spans)
        if not spans and not lost:
            lost = UnusableSample("no_words", "no words in them")
        if lost:
            remarks.append(f"captions of {captioned.video}: {lost}")
    if not n_spans:
        raise ValueError(f"no captions in {folder} can be used: {'; '.join(remarks)}")
    video_of = np.repeat(np.arange(len(videos), dtype=np.int32), counts)
    clip_of = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    rows = np.stack([video_of, clip_of], axis=1)
    return CaptionedFolder(folder, videos, bare, rows, limits, tuple(remarks))


def _clips_of(captions: Path, limits: dict[str, float]) -> tuple[list[ClipSpan], Lost | None]:
    try:
        return _clips_once(captions, captions.stat().st_mtime_ns, tuple(limits.items()))
    except FileNotFoundError as error:
        raise UnusableSample("missing_file", f"captions {captions} do not exist") from error
    except OSError as error:
        reason = error.strerror or error
        raise UnusableSample("missing_file", f"captions {captions} cannot be read: {reason}") from error
    except ValueError as error:
        raise UnusableSample("malformed", str(error)) from error


@lru_cache(maxsize=8)
def _clips_once(
    captions: Path, mtime_ns: int, limits: tuple[tuple[str, float], ...]
) -> tuple[list[ClipSpan], Lost | None]:
    """Split a file's words into clips; cached, since clips of a video are loaded one after the other."""
    words, lost = read_words_and_lost(captions)
    return split_into_clips(words, **dict(limits)), lost
