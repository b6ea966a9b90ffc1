"""What belongs to which video of a folder, by the names of the files: one rule for building and for training."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ..utils.extras import require_extra

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".flv", ".mpg", ".mpeg", ".wmv",
    ".mts", ".m2ts", ".m2t", ".mod", ".tod", ".3gp", ".3g2", ".dv", ".mxf", ".vob",  # camcorders, phones and discs
    ".ogv", ".asf", ".f4v", ".mpe", ".m2v", ".divx", ".qt", ".rmvb",
})
# fmt: on
# The best times first: YouTube's with times for words, a recogniser's, YouTube's WebVTT or plain, SubRip.
CAPTION_SUFFIXES = (".json3", ".json", ".vtt", ".srt")
# What yt-dlp puts beside a video that is JSON and no captions.
NOT_CAPTIONS = (".info.json", ".live_chat.json", ".comments.json")
DEFAULT_LANGUAGE = "en"
_INFO_SUFFIX = ".info.json"
_PART = re.compile(r"\.f\d{2,}(-\w+)?\.\w+$")  # of a video, as yt-dlp names what it will put together

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*")
_FORCED = frozenset({"forced", "foreign"})  # only what is said in another language
_VARIANTS = frozenset({"sdh", "cc", "hi", "default", "full", "auto", "asr", "orig", "original", "manual"})
_PLAIN_WORDS = frozenset({"sub", "subs", "subtitle", "subtitles", "caption", "captions"})
_KINDS = _FORCED | _VARIANTS | _PLAIN_WORDS
_HEARING_IMPAIRED = "hi"  # where a language stands beside it; alone it is Hindi


class CaptionTag(NamedTuple):
    """What stands between a video's name and the suffix of its captions, such as "en-US" or "pt_BR.forced".

    Attributes:
        language: its ISO 639 code, the shortest there is; `None`: none is named.
        region: what says more of the language, in lower case, such as "br"; "": nothing.
        is_translated: by machine from another language, as YouTube's "en-de" from German.
        is_forced: holds only foreign lines.
        is_known: all of it is understood.
    """

    language: str | None = None
    region: str = ""
    is_translated: bool = False
    is_forced: bool = False
    is_known: bool = True


def is_download_part(name: str) -> bool:
    """Return whether a file's name is of a part of a download, such as `match.f137.mp4`."""
    return _PART.search(name) is not None


@lru_cache(maxsize=4096)
def parse_tag(tag: str) -> CaptionTag:
    """Read what stands between a video's name and the suffix of its captions; "" is known and says nothing."""
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
    language = _language_code(first)
    if language is None:
        return None
    # Regions are in capitals, YouTube's source languages are not: "en-DE" is English, "en-de" German that became it.
    source = _language_code(others[0]) if others and others[0].islower() and len(others[0]) < 4 else None
    is_translated = source is not None and _language_of_region(others[0]) != language
    region = "" if is_translated else "-".join(others).lower().removesuffix("orig")
    return CaptionTag(language, region, is_translated)


@lru_cache(maxsize=4096)
def _language_code(code: str) -> str | None:
    """Return the shortest code of a language: "de" for "ger" and "deu"; `None` if there is no such."""
    require_extra("data", "telling the languages of captions apart", "langcodes")
    from langcodes import Language
    from langcodes.tag_parser import LanguageTagError

    try:
        language = Language.get(code.lower())
    except LanguageTagError:
        return None
    return language.language if language.is_valid() else None


@lru_cache(maxsize=4096)
def _language_of_region(region: str) -> str | None:
    """Return what is spoken most in a region; `None` if there is no such region."""
    from langcodes import Language

    found = Language.make(territory=region.upper())
    return found.maximize().language if found.is_valid() else None


def walk_videos(
    folder: str | os.PathLike, language: str | None, left_out: LeftOut
) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield the videos below a folder with their captions and metadata, as names relative to it.

    Args:
        folder: where to look, in all subfolders but hidden and linked ones.
        language: captions in it come first; `None`: in any.
        left_out: takes what is no input, though it looks like some.

    Yields:
        Video (its stem where there is only metadata), captions and metadata; `None` where there are none.
    """
    for path, subfolders, names in os.walk(os.fspath(folder)):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))  # half-written datasets
        base = os.path.relpath(path, folder)
        prefix = "" if base == "." else f"{base}/"
        for name in subfolders:
            if Path(path, name).is_symlink():
                left_out.add("linked folders", f"{prefix}{name}")
        names = [name for name in sorted(names) if not left_out.is_no_input(prefix, name)]
        names.sort(key=_first_part)
        # What belongs together has all up to the first dot in common, so that only these names are held twice.
        for _, group in groupby(names, _first_part):
            for video, captions, info in _group_names(sorted(group), language, left_out, prefix):
                yield f"{prefix}{video}", captions and f"{prefix}{captions}", info and f"{prefix}{info}"


def _group_names(
    names: list[str], language: str | None, left_out: LeftOut, prefix: str
) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield the videos of a folder with the names of their captions and metadata."""
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
            if suffix.lower() != ".json":  # which is anything
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
    """Return the longest name of a video that captions begin with, and the tag after it.

    "a.b.en.vtt" belongs to "a.b.mp4", whose own name may hold dots. What is not understood may stand there alone.
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
    """Return what orders the captions of a video.

    Those in the language and without one come first; of these what no machine translated, then those by the video's
    name alone, in the region asked for, and in the order of the formats.
    """
    name, tag, suffix = item
    found = parse_tag(tag)
    says_nothing = found.language is None and found.is_known
    wanted = CaptionTag() if language is None else parse_tag(language)
    is_wanted = language is None or says_nothing or found.language == wanted.language
    farness = 0 if not wanted.region or found.region == wanted.region else 2 if found.region else 1
    return not is_wanted, found.is_translated, bool(tag), farness, CAPTION_SUFFIXES.index(suffix), name


class LeftOut:
    """What of a folder is no input, though it looks like some: how many files of each kind, and one as an example."""

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def __str__(self) -> str:
        return ", ".join(f"{what} ({count:,}, such as {self._examples[what]})" for what, count in self.counts.items())

    def add(self, what: str, name: str) -> None:
        """Count a name that is left out, as `what`."""
        self.counts[what] += 1
        self._examples.setdefault(what, name)

    def is_no_input(self, prefix: str, name: str) -> bool:
        """Return whether a name is hidden, as what macOS writes beside a file, or of a part of a download."""
        is_hidden, is_part = name.startswith("."), is_download_part(name)
        if (is_hidden or is_part) and _split_suffix(name)[1].lower() in VIDEO_SUFFIXES:
            self.add("hidden videos" if is_hidden else "parts of downloads", f"{prefix}{name}")
        return is_hidden or is_part
