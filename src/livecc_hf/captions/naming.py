"""Matches captions and metadata to videos by file name, for building data and for training."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from .languages import check_language, is_same_language, language_code

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".flv", ".mpg", ".mpeg", ".wmv",
    ".mts", ".m2ts", ".m2t", ".mod", ".tod", ".3gp", ".3g2", ".dv", ".mxf", ".vob",  # camcorders, phones and discs
    ".ogv", ".asf", ".f4v", ".mpe", ".m2v", ".divx", ".qt", ".rmvb",
})
# fmt: on
# In order of preference, by the precision of their times: json3 and recognisers have word times, SubRip has lines.
CAPTION_SUFFIXES = (".json3", ".json", ".vtt", ".srt")
# JSON files that yt-dlp writes next to a video and that are not captions.
NOT_CAPTIONS = (".info.json", ".live_chat.json", ".comments.json")
DEFAULT_LANGUAGE = "en"
_INFO_SUFFIX = ".info.json"
_PART = re.compile(r"\.f\d{2,}(-\w+)?\.\w+$")  # yt-dlp's name for a separate audio or video download

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*")
_FORCED = frozenset({"forced", "foreign"})  # captions of foreign-language lines only
_VARIANTS = frozenset({"sdh", "cc", "hi", "default", "full", "auto", "asr", "orig", "original", "manual"})
_PLAIN_WORDS = frozenset({"sub", "subs", "subtitle", "subtitles", "caption", "captions"})
_KINDS = _FORCED | _VARIANTS | _PLAIN_WORDS
_HEARING_IMPAIRED = "hi"  # next to a language; alone it means Hindi


class CaptionTag(NamedTuple):
    """The parsed tag in the name of a caption file, such as "en-US" or "pt_BR.forced".

    Attributes:
        language: shortest ISO 639 code of the language; `None` if the tag names no language.
        region: further subtags of the language in lower case, such as "br"; may be empty.
        is_translated: whether the captions are machine-translated, such as YouTube's "en-de", from German.
        is_forced: whether the captions contain foreign-language lines only.
        is_known: whether every part of the tag was recognised.
    """

    language: str | None = None
    region: str = ""
    is_translated: bool = False
    is_forced: bool = False
    is_known: bool = True


def is_download_part(name: str) -> bool:
    """Return whether a file is one of yt-dlp's partial downloads, such as `match.f137.mp4`."""
    return _PART.search(name) is not None


@lru_cache(maxsize=4096)
def parse_tag(tag: str) -> CaptionTag:
    """Parse the tag between a video's name and its captions' suffix; it may be empty."""
    parts = [part for part in tag.split(".") if part]
    parts = [part for part in parts if f".{part.lower()}" not in VIDEO_SUFFIXES]  # as in a.mp4.srt
    kinds = [part.lower() for part in parts if part.lower() in _KINDS]
    found = [spoken for part in parts if part.lower() not in kinds and (spoken := _parse_language(part))]
    if not found and _HEARING_IMPAIRED in kinds:
        kinds.remove(_HEARING_IMPAIRED)
        found = [CaptionTag(_HEARING_IMPAIRED)]
    spoken = found[0] if found else CaptionTag()
    is_known = len(found) + len(kinds) == len(parts) and len(found) <= 1
    return spoken._replace(is_forced=not _FORCED.isdisjoint(kinds), is_known=is_known)


def _parse_language(part: str) -> CaptionTag | None:
    if _LANGUAGE.fullmatch(part) is None:
        return None
    first, *others = re.split("[-_]", part)
    language = language_code(first)
    if language is None:
        return None
    # Regions are in capitals, YouTube's source languages are not: "en-DE" is English as used in Germany, "en-de" is
    # English translated from German.
    source = language_code(others[0]) if others and others[0].islower() and len(others[0]) < 4 else None
    is_translated = source is not None and _language_of_region(others[0]) != language
    region = "" if is_translated else "-".join(others).lower().removesuffix("orig")
    return CaptionTag(language, region, is_translated)


@lru_cache(maxsize=4096)
def _language_of_region(region: str) -> str | None:
    """Return the most spoken language of a region; `None` if the region is unknown."""
    from langcodes import Language

    found = Language.make(territory=region.upper())
    return found.maximize().language if found.is_valid() else None


def walk_videos(
    folder: str | os.PathLike, language: str | None, left_out: LeftOut
) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield each video below a folder with its captions and metadata, as paths relative to the folder.

    Args:
        folder: searched with all its subfolders, except hidden and linked ones.
        language: preferred language of captions; `None` for any.
        left_out: counts the files that look like input but are skipped.

    Yields:
        The video (its stem if only metadata exists), its captions or `None`, and its metadata or `None`.

    Raises:
        ValueError: if the language is unknown.
    """
    if language is not None:
        check_language(language)
    for path, subfolders, names in os.walk(os.fspath(folder)):
        # Hidden folders may be half-written datasets.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        base = os.path.relpath(path, folder)
        prefix = "" if base == "." else f"{base}/"
        for name in subfolders:
            if Path(path, name).is_symlink():
                left_out.add("linked folders", f"{prefix}{name}")
        names = [name for name in sorted(names) if not left_out.is_skipped(prefix, name)]
        names.sort(key=_first_part)
        # Files of one video agree up to the first dot; grouping by it keeps only one group in memory.
        for _, group in groupby(names, _first_part):
            for video, captions, info in _group_names(sorted(group), language, left_out, prefix):
                yield f"{prefix}{video}", captions and f"{prefix}{captions}", info and f"{prefix}{info}"


def _group_names(
    names: list[str], language: str | None, left_out: LeftOut, prefix: str
) -> Iterator[tuple[str, str | None, str | None]]:
    """Match the file names of one group; see `walk_videos`."""
    videos = [name for name in names if _split_suffix(name)[1].lower() in VIDEO_SUFFIXES]
    infos = {name[: -len(_INFO_SUFFIX)]: name for name in names if name.lower().endswith(_INFO_SUFFIX)}
    stems = {_split_suffix(name)[0] for name in videos} | infos.keys()
    captions = defaultdict(list)
    for name in names:
        base, suffix = _split_suffix(name)
        if suffix.lower() not in CAPTION_SUFFIXES or name.lower().endswith(NOT_CAPTIONS):
            continue
        found = _owner(base, stems)
        if found is None:
            if suffix.lower() != ".json":  # a JSON file need not be captions
                left_out.add("captions without a video", f"{prefix}{name}")
        elif parse_tag(found[1]).is_forced:
            left_out.add("captions of foreign lines only", f"{prefix}{name}")
        else:
            captions[found[0]].append((name, found[1], suffix.lower()))
    items = [(_split_suffix(video)[0], video) for video in videos]
    owners = {stem for stem, _ in items}
    items += [(stem, stem) for stem in infos if stem not in owners]
    for stem, video in sorted(items):
        chosen = min(captions.get(stem, ()), key=lambda item: _preference(item, language), default=None)
        yield video, chosen and chosen[0], infos.get(stem)


def _owner(base: str, stems: set[str]) -> tuple[str, str] | None:
    """Return the longest video stem that a caption name begins with, and the tag after it, or `None`.

    "a.b.en.vtt" belongs to "a.b.mp4", since stems may contain dots. A tag of several parts must be recognised, a single
    part may be anything.
    """
    if base in stems:
        return base, ""
    stem = base
    while "." in stem:
        stem = stem.rpartition(".")[0]
        tag = base[len(stem) + 1 :]
        if stem in stems:
            return (stem, tag) if "." not in tag or parse_tag(tag).is_known else None
    return None


def _first_part(name: str) -> str:
    return name.partition(".")[0]


def _split_suffix(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix) if stem else (name, "")


def _preference(item: tuple[str, str, str], language: str | None) -> tuple[bool, bool, bool, int, int, str]:
    """Return the sort key of a video's captions; the lowest is chosen.

    The criteria, in order: in the requested language or without a tag, not machine-translated, without a tag, in the
    requested region, and the order of `CAPTION_SUFFIXES`.

    Args:
        item: file name, tag and suffix.
        language: the requested language; `None` for any.
    """
    name, tag, suffix = item
    found = parse_tag(tag)
    is_untagged = found.language is None and found.is_known
    wanted = CaptionTag() if language is None else parse_tag(language)
    is_wanted = language is None or is_untagged or is_same_language(found.language or "", language)
    region_rank = 0 if not wanted.region or found.region == wanted.region else 2 if found.region else 1
    return not is_wanted, found.is_translated, bool(tag), region_rank, CAPTION_SUFFIXES.index(suffix), name


class LeftOut:
    """Counts the files that look like input but are skipped, by kind, with an example of each."""

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def __str__(self) -> str:
        return ", ".join(f"{what} ({count:,}, such as {self._examples[what]})" for what, count in self.counts.items())

    def add(self, what: str, name: str) -> None:
        """Count the file `name` as skipped for being of the kind `what`."""
        self.counts[what] += 1
        self._examples.setdefault(what, name)

    def is_skipped(self, prefix: str, name: str) -> bool:
        """Return whether a file is hidden or a partial download; count it if it is a video."""
        is_hidden, is_part = name.startswith("."), is_download_part(name)
        if (is_hidden or is_part) and _split_suffix(name)[1].lower() in VIDEO_SUFFIXES:
            self.add("hidden videos" if is_hidden else "parts of downloads", f"{prefix}{name}")
        return is_hidden or is_part
