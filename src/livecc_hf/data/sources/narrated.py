"""Training sources of narrated videos and conversations: files, datasets and folders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from livecc_hf.captions.naming import DEFAULT_LANGUAGE
from livecc_hf.utils.disk import is_disk_full
from livecc_hf.utils.text import one_line

from ..dataset import Item, parse_entry, register_source
from ..formats.chat import Conversation
from ..formats.clip_spans import FIRST_TURN_S, MAX_CLIP_S, MAX_GAP_S
from ..formats.conversations import NarratedVideo
from ..formats.folder import open_folder
from ..formats.jsonl import JsonLines
from ..formats.rows import parse_row
from ..media.clip_frames import read_clip
from ..media.paths import expand_user, local_path, resolve_media
from ..samples.chat import count_chat_tokens, encode_chat
from ..samples.narration import NarratedClip, count_narration_tokens, encode_narration, locate_clip, words_from
from ..samples.placeholder import N_PLACEHOLDER_TOKENS
from ..samples.sample import EncodeOptions, Sample
from ..unusable import UnusableSample

if TYPE_CHECKING:
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

logger = logging.getLogger(__name__)


class Rows(Protocol):
    """The rows of a dataset by index, such as a list or `JsonLines`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Any: ...


@dataclass(frozen=True)
class NarrationItem:
    """A clip of a video and the words spoken in it."""

    video: NarratedVideo
    media_root: str | None

    def encode(self, processor: StreamingProcessor, options: EncodeOptions) -> Sample:
        """Decode the clip and interleave its words; see `encode_narration`."""
        return encode_narration(self.video, processor, options, self.media_root)

    def count_tokens(self, processor: StreamingProcessor, options: EncodeOptions) -> int:
        """Return an upper bound of the tokens; see `count_narration_tokens`."""
        return count_narration_tokens(self.video, processor, options, self.media_root)

    def clip(self, processor: StreamingProcessor, options: EncodeOptions) -> NarratedClip:
        """Decode the clip; its words are those that a sample may speak."""
        video = self.video
        path, plan = locate_clip(video, processor, options, self.media_root)
        decoded = read_clip(path, plan, processor.video_processor)
        texts = video.query, video.title, video.previous
        words = words_from(video.words, video.start_s)
        return NarratedClip(decoded.frames, decoded.end_times_s, words, *texts, is_resized=True)


@dataclass(frozen=True)
class ChatItem:
    """A conversation about images or videos, or of text only."""

    conversation: Conversation
    media_root: str | None
    allow_urls: bool | Sequence[str] = False

    def encode(self, processor: StreamingProcessor, options: EncodeOptions) -> Sample:
        """Decode the media and tokenise the conversation; see `encode_chat`."""
        return encode_chat(self.conversation, processor, options, self.media_root, self.allow_urls)

    def count_tokens(self, processor: StreamingProcessor, options: EncodeOptions) -> int:
        """Return the number of tokens, from the text and the media's headers; see `count_chat_tokens`."""
        n_tokens = count_chat_tokens(self.conversation, processor, options, self.media_root, self.allow_urls)
        # `with_vision` appends the placeholder's video to a sample of text only.
        return n_tokens if self._has_media() else n_tokens + N_PLACEHOLDER_TOKENS

    def clip(self, processor: StreamingProcessor, options: EncodeOptions) -> None:
        """Return `None`: a conversation has no timed words."""

    def _has_media(self) -> bool:
        return any(part["type"] != "text" for message in self.conversation.messages for part in message["content"])


class RowsPart:
    """The rows of a dataset, each parsed when it is accessed.

    Args:
        rows: the rows.
        name: name of the dataset, for messages.
        media_root: root of the rows' media paths; see `resolve_media`.
        allow_urls: whether to download images from the web, or the hosts allowed for it.

    Raises:
        ValueError: if `allow_urls` is neither a boolean nor a list of hosts.
    """

    def __init__(self, rows: Rows, name: str, media_root: str | None, allow_urls: bool | Sequence[str] = False):
        self.rows = rows
        self.name = name
        self.media_root = media_root
        self.allow_urls = checked_hosts(allow_urls)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Item:
        try:
            value = self.rows[row]
        except ValueError as error:  # a line that is not JSON
            raise UnusableSample("malformed", str(error)) from error
        parsed = parse_row(value, self.origin(row))
        if isinstance(parsed, NarratedVideo):
            return NarrationItem(parsed, self.media_root)
        return ChatItem(parsed, self.media_root, self.allow_urls)

    def origin(self, row: int) -> str:
        """Return where an item comes from, for messages."""
        return f"{self.name}:{row + 1}"

    def fingerprint(self) -> str:
        """Return a fingerprint that changes with the content."""
        return _fingerprint_of(self.rows)


@dataclass(frozen=True)
class JsonlEntry:
    """A JSON Lines file, or a JSON file with one list."""

    path: str = field(metadata={"help": "The file, or hf://datasets/USER/REPO/FILE for a file on the Hub."})
    media_root: str | None = field(
        default=None,
        metadata={"help": "Root of media paths, a folder or hf://datasets/...; default: the file's folder."},
    )
    allow_urls: bool | Sequence[str] = field(
        default=False, metadata={"help": "Fetch images from the web, or from the hosts of this list; videos never."}
    )


@register_source("jsonl")
class JsonlSource:
    """JSON Lines files such as Live-CC-5M and LiveCC's SFT data; see `JsonlEntry` for the keys."""

    def open(self, entry: dict[str, Any], seed: int) -> RowsPart:
        """Open the file; `seed` is not used."""
        keys = parse_entry(JsonlEntry, entry, "jsonl")
        if not keys.path.startswith("hf://") and not (given := local_path(keys.path)).is_file():
            raise FileNotFoundError(f"data file {given} does not exist: expected conversations, one JSON value a line")
        file = resolve_media(keys.path)
        default_root = keys.path.rpartition("/")[0] if keys.path.startswith("hf://") else str(file.parent)
        rows: Rows = _json_list(file) if file.suffix.lower() == ".json" else JsonLines(file)
        return RowsPart(rows, str(file.name), keys.media_root or default_root, keys.allow_urls)


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset that `datasets.load_dataset` opens."""

    path: str = field(metadata={"help": "A Hub dataset id, a dataset folder, or Parquet files (* is a wildcard)."})
    name: str | None = field(default=None, metadata={"help": "The dataset's configuration."})
    split: str = field(default="train", metadata={"help": "The dataset's split."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit on the Hub."})
    media_root: str | None = field(
        default=None, metadata={"help": "Root of media paths; default: the dataset's folder or Hub repository."}
    )
    allow_urls: bool | Sequence[str] = field(
        default=False, metadata={"help": "Fetch images from the web, or from the hosts of this list; videos never."}
    )


@register_source("dataset")
class DatasetSource:
    """Parquet and Hub datasets; see `DatasetEntry` for the keys and `parse_row` for the columns."""

    def open(self, entry: dict[str, Any], seed: int) -> RowsPart:
        """Open the dataset; `seed` is not used."""
        keys = parse_entry(DatasetEntry, entry, "dataset")
        rows, default_root = _load_rows(keys)
        return RowsPart(rows, keys.path, keys.media_root or default_root, keys.allow_urls)


@dataclass(frozen=True)
class FolderEntry:
    """A folder of videos, each with captions next to it."""

    path: str = field(metadata={"help": "The folder."})
    query: str | None = field(default=None, metadata={"help": "The user's request; default: the processor's."})
    language: str | None = field(
        default=DEFAULT_LANGUAGE,
        metadata={"help": "Preferred language of captions, for videos that have several; null for any."},
    )
    max_clip_s: float = field(default=MAX_CLIP_S, metadata={"help": "Longest clip, in seconds."})
    max_gap_s: float = field(default=MAX_GAP_S, metadata={"help": "Longest silence within a clip, in seconds."})

    def __post_init__(self):
        for name, above in (("max_clip_s", FIRST_TURN_S), ("max_gap_s", 0)):
            if not getattr(self, name) > above:
                raise ValueError(f"{name} is {getattr(self, name)!r} in a 'folder' data entry: expected above {above}")


@register_source("folder")
class FolderSource:
    """A folder of narrated videos, split into clips; see `FolderEntry` for the keys."""

    def open(self, entry: dict[str, Any], seed: int) -> FolderPart:
        """Read the captions; `seed` is not used."""
        return FolderPart(parse_entry(FolderEntry, entry, "folder"))


class FolderPart:
    """The clips of a folder of narrated videos."""

    def __init__(self, entry: FolderEntry):
        self.entry = entry
        self.clips = open_folder(entry.path, entry.language, max_s=entry.max_clip_s, max_gap_s=entry.max_gap_s)
        for remark in self.clips.remarks:
            logger.warning("%s", remark)
        for video in self.clips.bare:
            logger.warning("%s in %s has no captions next to it: left out", video, entry.path)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, row: int) -> NarrationItem:
        return NarrationItem(self.clips.load(row, self.entry.query), self.entry.path)

    def origin(self, row: int) -> str:
        """Return where an item comes from, for messages."""
        video, clip = self.clips.rows[row]
        return f"{self.clips.videos[video].video} clip {clip + 1}"

    def fingerprint(self) -> str:
        """Return a hash of the videos' names and captions."""
        digest = hashlib.sha256()
        for video in self.clips.videos:
            digest.update(os.fsencode(video.video))
            with contextlib.suppress(OSError):  # captions that cannot be read were reported, and are skipped
                digest.update((self.clips.folder / video.captions).read_bytes())
        return digest.hexdigest()


def checked_hosts(value: Any) -> bool | tuple[str, ...]:
    """Return an entry's `allow_urls` as a boolean or a tuple of hosts.

    Raises:
        ValueError: if it is neither a boolean nor a list of hosts.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(host, str) for host in value):
        raise ValueError(
            f"allow_urls is {value!r}: expected true, false or a list of hosts, such as [images.example.org]"
        )
    return tuple(value)


def _fingerprint_of(rows: Any) -> str:
    """Return the fingerprint of a `JsonLines` or a `datasets.Dataset`, or a hash of a list."""
    if hasattr(rows, "fingerprint"):
        return rows.fingerprint()
    if hasattr(rows, "_fingerprint"):  # `datasets.Dataset` has no public fingerprint
        return rows._fingerprint
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _json_list(file: Path) -> list:
    """Return the list in a JSON file.

    Raises:
        ValueError: if the file contains anything else.
    """
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}; name a file with a value in each line .jsonl") from error
    if not isinstance(value, list):
        raise ValueError(f"{file} contains a {type(value).__name__}: expected a list of conversations")
    return value


def _cache_dir(folder: Path) -> str:
    """Return a cache folder for a dataset folder, which depends on the folder's path and files.

    `datasets` caches a folder that has a card under its name only, and would confuse two folders with the same name, or
    two versions of a folder.
    """
    from datasets import config

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return str(Path(config.HF_DATASETS_CACHE, "livecc-folders", hashlib.sha256(repr(state).encode()).hexdigest()[:24]))


def _load_rows(keys: DatasetEntry) -> tuple[Any, str]:
    """Return the dataset's rows, with media columns not decoded, and the default root of its media paths.

    Raises:
        ValueError: if the dataset cannot be opened.
    """
    from datasets import Image, Video, load_dataset
    from datasets.exceptions import DatasetGenerationError

    path = expand_user(keys.path)
    is_file = path.suffix == ".parquet"
    for key, there in (("name", not is_file), ("revision", not is_file and not path.is_dir())):
        if getattr(keys, key) is not None and not there:
            raise ValueError(
                f"dataset {keys.path} is {'a file' if is_file else 'a folder'}, which has no {key}: remove {key}"
            )
    try:
        if is_file:
            rows = load_dataset("parquet", data_files=str(path), split=keys.split)
            root = str(path.parent)
        else:
            cache = _cache_dir(path) if path.is_dir() else None
            source = str(path) if path.is_dir() else keys.path
            rows = load_dataset(source, keys.name, split=keys.split, revision=keys.revision, cache_dir=cache)
            revision = f"@{keys.revision}" if keys.revision else ""
            root = str(path) if path.is_dir() else f"hf://datasets/{keys.path}{revision}"
    except Exception as error:  # `datasets` raises different errors for each format
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None  # the error itself says nothing
        if is_disk_full(cause or error):
            raise (cause or error) from None
        reason = one_line(cause or error, 300)
        if path.suffix != ".parquet" and not path.exists():
            reason = f"it is no folder here, and {reason}"
        raise ValueError(f"dataset {keys.path} (split {keys.split}) cannot be opened: {reason}") from error
    for column, kind in (rows.features or {}).items():
        if isinstance(kind, Image | Video):
            rows = rows.cast_column(column, type(kind)(decode=False))
    return rows, root
