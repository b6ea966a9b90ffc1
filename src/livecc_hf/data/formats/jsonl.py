"""Random access to the lines of a JSON Lines file of any size.

Live-CC-5M and Live-WhisperX-526K are files with millions of lines, each a conversation. Lines are located by their byte
offsets, which are computed once and cached. The last line of the published files is a JSON list of these offsets, which
is used if it is correct.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from livecc_hf.utils.atomic import atomic_write

logger = logging.getLogger(__name__)

_CHECKED_LINES = 64  # lines at which listed offsets are checked
_FINGERPRINT_LINES = 1000  # lines that the fingerprint reads
_BLOCK_BYTES = 1 << 24
_NEWLINE = 10
_BLANKS = b"\n\r "


class JsonLines:
    """The values of a file's lines, by index; can be pickled.

    Args:
        path: a UTF-8 file with a JSON value in each line.
        cache_dir: folder for cached offsets; default: `livecc_hf` in the Hugging Face cache.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file has no lines.
    """

    def __init__(self, path: str | os.PathLike, cache_dir: str | os.PathLike | None = None):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} does not exist: expected a JSON Lines file")
        self._offsets_file = _cached_offsets(self.path, cache_dir)
        self._open()

    def _open(self) -> None:
        self._offsets = np.load(self._offsets_file, mmap_mode="r")
        self._file = self.path.open("rb")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Any:
        """Return the value of a line.

        Raises:
            IndexError: if the line does not exist.
            ValueError: if the line is not JSON.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"line {index} of {self.path}: it has {len(self)} lines")
        start, end = (int(offset) for offset in self._offsets[index : index + 2])
        line = _read_at(self._file, end - start, start)
        try:
            return json.loads(line.strip())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {index + 1} of {self.path} is not JSON: {error}") from error

    def fingerprint(self) -> str:
        """Return a hash of all line lengths and of a thousand lines spread over the file."""
        digest = hashlib.sha256(np.diff(self._offsets).data)
        for index in np.unique(np.linspace(0, len(self) - 1, _FINGERPRINT_LINES).astype(int)):
            start, end = (int(offset) for offset in self._offsets[index : index + 2])
            digest.update(_read_at(self._file, end - start, start))
        return digest.hexdigest()

    def __getstate__(self) -> dict:
        return {"path": self.path, "_offsets_file": self._offsets_file}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()


def _read_at(file: BinaryIO, n_bytes: int, start: int) -> bytes:
    """Read bytes at an offset; forked processes share the file's position, so avoid moving it."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), n_bytes, start)
    file.seek(start)
    return file.read(n_bytes)


def _cached_offsets(path: Path, cache_dir: str | os.PathLike | None) -> Path:
    """Return the cache file of a file's offsets, whose name depends on size and time of the file."""
    stat = path.stat()
    key = os.fsencode(path.resolve()) + f":{stat.st_size}:{stat.st_mtime_ns}".encode()
    folder = Path(cache_dir) if cache_dir is not None else default_cache()
    file = folder / f"{path.stem[:40]}-{hashlib.sha256(key).hexdigest()[:16]}.offsets.npy"
    if not file.exists():
        offsets = find_offsets(path)
        with atomic_write(file, sync=False, keeps_suffix=True) as partial:  # several processes may write it at once
            np.save(partial, offsets)
    return file


def default_cache() -> Path:
    """Return the cache folder for datasets: `livecc_hf` in the Hugging Face cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "livecc_hf"


def find_offsets(path: str | os.PathLike) -> np.ndarray:
    """Return the byte offsets at which the lines of a file begin, and the end of the last line.

    The file is read in blocks, so that memory use does not depend on its size. If the last line is a list of offsets,
    it does not count as data; it is used if it is correct, and otherwise ignored with a warning.

    Returns:
        int64 array (lines + 1,).

    Raises:
        ValueError: if the file has no lines.
    """
    path = Path(path)
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty: expected a JSON value in each line")
    with path.open("rb", buffering=0) as file:
        start, end = _last_line(file, size)
        listed = _listed_offsets(file, start, end)
        if listed is not None:
            offsets = np.append(listed, start)
            fault = _fault(file, offsets)
            if fault is None:
                return offsets
            logger.warning("the last line of %s lists wrong offsets (%s): scanning the file instead", path, fault)
            end = start
        offsets = _scan(file, end)
    if len(offsets) < 2:
        raise ValueError(f"{path} contains no data: expected a JSON value in each line")
    return offsets


def _last_line(file: BinaryIO, size: int) -> tuple[int, int]:
    """Return the start and end of the last line that is not blank, by reading backwards."""
    end = None
    for stop in range(size, 0, -_BLOCK_BYTES):
        base = max(stop - _BLOCK_BYTES, 0)
        block = _read_at(file, stop - base, base)
        if end is None:
            text = block.rstrip(_BLANKS)
            if not text:
                continue
            end, block = base + len(text), text
        newline = block.rfind(b"\n")
        if newline >= 0:
            return base + newline + 1, end
    return 0, end or 0


def _listed_offsets(file: BinaryIO, start: int, end: int) -> np.ndarray | None:
    """Parse a line such as `[0, 1234, 5678]`; return `None` if the line is anything else."""
    parts: list[np.ndarray | None] = []
    rest = b""
    if _read_at(file, 1, start) != b"[" or _read_at(file, 1, end - 1) != b"]":
        return None
    for base in range(start + 1, end - 1, _BLOCK_BYTES):
        rest += _read_at(file, min(_BLOCK_BYTES, end - 1 - base), base)
        if rest.translate(None, b"0123456789, \r\t"):
            return None
        whole, comma, rest = rest.rpartition(b",")
        parts += [_integers(whole)] if comma else []
    parts.append(_integers(rest) if parts or rest.strip() else np.empty(0, np.int64))
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _integers(text: bytes) -> np.ndarray | None:
    """Parse a text such as `0, 1234`; return `None` if a field is empty, or is not a valid offset."""
    fields = text.count(b",") + 1
    # NumPy parses malformed text such as "1 2" or "1,,2" to fewer numbers than there are fields.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            numbers = np.fromstring(text, dtype=np.int64, sep=",")
        except ValueError:
            return None
    return numbers if len(numbers) == fields and (numbers >= 0).all() else None


def _fault(file: BinaryIO, offsets: np.ndarray) -> str | None:
    """Return what is wrong with listed offsets, or `None`; checks their order and a sample of the lines."""
    if len(offsets) < 2 or offsets[0] != 0:
        return "the first line does not begin at byte 0"
    if (np.diff(offsets) <= 0).any():
        return "they do not increase"
    sample = np.unique(np.linspace(0, len(offsets) - 2, _CHECKED_LINES).astype(int))
    for index in sample:
        if not _is_line(file, int(offsets[index]), int(offsets[index + 1])):
            return f"offset {index} is not the start of a line"
    return None


def _is_line(file: BinaryIO, start: int, end: int) -> bool:
    """Return whether exactly one line, which has to be an object or a list, lies between two offsets."""
    if (start and _read_at(file, 1, start - 1) != b"\n") or _read_at(file, 1, start) not in (b"{", b"["):
        return False
    for base in range(start, end, _BLOCK_BYTES):
        piece = _read_at(file, min(_BLOCK_BYTES, end - base), base)
        if b"\n" in (piece.rstrip(b"\r\n") if base + len(piece) == end else piece):
            return False
    return True


def _scan(file: BinaryIO, end: int) -> np.ndarray:
    """Return the offsets of the lines before byte `end` that are not blank, followed by `end`."""
    parts = []
    after_newline = True
    for base in range(0, end, _BLOCK_BYTES):
        block = np.frombuffer(_read_at(file, min(_BLOCK_BYTES, end - base), base), np.uint8)
        starts = np.flatnonzero(block == _NEWLINE) + 1
        if after_newline:
            starts = np.insert(starts, 0, 0)
        after_newline = block[-1] == _NEWLINE
        starts = starts[starts < len(block)]
        first = block[starts]
        is_blank = first == _NEWLINE
        # Other blank lines start with white space; few lines do, so these are read.
        for at in np.flatnonzero(np.isin(first, list(b" \t\r\v\f"))):
            is_blank[at] = _is_blank(file, base + int(starts[at]), end)
        parts.append(starts[~is_blank] + base)
    return np.concatenate([*parts, [end]]).astype(np.int64, copy=False)


def _is_blank(file: BinaryIO, start: int, end: int) -> bool:
    """Return whether the line at `start` contains only white space."""
    while start < end:
        piece = _read_at(file, min(256, end - start), start)
        line, newline, _ = piece.partition(b"\n")
        if line.strip():
            return False
        if newline:
            return True
        start += len(piece)
    return True
