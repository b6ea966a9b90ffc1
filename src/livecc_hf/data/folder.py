"""A folder of narrated videos: each with a caption file of the same name beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .words import CAPTION_SUFFIXES

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".flv", ".mpg", ".mpeg", ".wmv"})


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
    for video in sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES):
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


def _captions_of(video: Path) -> Iterator[Path]:
    for suffix in CAPTION_SUFFIXES:
        plain = video.with_suffix(suffix)
        if plain.is_file():
            yield plain
    beside = sorted(path for path in video.parent.iterdir() if path.name.startswith(f"{video.stem}."))
    for suffix in CAPTION_SUFFIXES:
        yield from (path for path in beside if path.suffix.lower() == suffix and path.name.count(".") > 1)
