"""What belongs to which video of a folder, by the names of the files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".flv", ".mpg", ".mpeg", ".wmv"})
# The best times first: YouTube's with times for words, a recogniser's, YouTube's WebVTT or plain, SubRip.
CAPTION_SUFFIXES = (".json3", ".json", ".vtt", ".srt")
# What yt-dlp puts beside a video that is JSON and no captions.
NOT_CAPTIONS = (".info.json", ".live_chat.json", ".comments.json")
_INFO_SUFFIX = ".info.json"
_PART = re.compile(r"\.f\d{2,}(-\w+)?\.\w+$")  # of a video, as yt-dlp names what it will put together


def is_download_part(name: str) -> bool:
    """Return whether a file's name is of a part of a download, such as `match.f137.mp4`."""
    return _PART.search(name) is not None


def group_names(
    names: list[str], language: str | None, left_out: LeftOut, prefix: str
) -> Iterator[tuple[str, str | None, str | None]]:
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
    for stem in sorted(captions.keys() - {stem for stem, _ in items}):
        for name, _, suffix in captions[stem]:
            if suffix != ".json":  # which is anything
                left_out.add("captions without a video", f"{prefix}{name}")
    for stem, video in sorted(items):
        found = min(captions.get(stem, ()), key=lambda item: _preference(item, language), default=None)
        yield video, found and found[0], infos.get(stem)


def first_part(name: str) -> str:
    return name.partition(".")[0]


def _split_suffix(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix) if stem else (name, "")


def _preference(item: tuple[str, str, str], language: str | None) -> tuple[bool, bool, int, str]:
    """Return what orders the captions of a video: training on a folder chooses in the same order."""
    name, tag, suffix = item
    is_wanted = language is None or not tag or tag.split("-")[0].lower() == language.split("-")[0].lower()
    return (not is_wanted, bool(tag), CAPTION_SUFFIXES.index(suffix), name)


class LeftOut:
    """What of a folder is no input, though it looks like some: how many files of each kind, and one as an example."""

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def __str__(self) -> str:
        return ", ".join(f"{what} ({count:,}, such as {self._examples[what]})" for what, count in self.counts.items())

    def add(self, what: str, name: str) -> None:
        self.counts[what] += 1
        self._examples.setdefault(what, name)

    def is_no_input(self, prefix: str, name: str) -> bool:
        """Returns whether a name is hidden, as what macOS writes beside a file, or of a part of a download."""
        is_hidden, is_part = name.startswith("."), is_download_part(name)
        if (is_hidden or is_part) and _split_suffix(name)[1].lower() in VIDEO_SUFFIXES:
            self.add("hidden videos" if is_hidden else "parts of downloads", f"{prefix}{name}")
        return is_hidden or is_part
