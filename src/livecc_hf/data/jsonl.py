"""Random access to the lines of a JSON Lines file of any size.

Live-CC-5M and Live-WhisperX-526K are files of millions of lines, one conversation each. Lines are reached by
their byte offset; offsets are found once and kept beside the file or in the user's cache. The published files
carry them as a last line, a JSON list of integers, which is used where it is right.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

_CHECKED_LINES = 64
_TAIL_BYTES = 1 << 16


class JsonLines:
    """The lines of a file, reached by number. Opens the file when first read, so it travels between processes.

    Args:
        path: a file with one JSON value a line, in UTF-8.
        cache_dir: where offsets are kept; default: `livecc_hf` in the Hugging Face cache.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no line.
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
            IndexError: if there is no such line.
            ValueError: if the line is not JSON.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"line {index} of {self.path}: it has {len(self)} lines")
        start, end = (int(offset) for offset in self._offsets[index : index + 2])
        line = os.pread(self._file.fileno(), end - start, start)
        try:
            return json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {index + 1} of {self.path} is not JSON: {error}") from error

    def __getstate__(self) -> dict:
        return {"path": self.path, "_offsets_file": self._offsets_file}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()


def _cached_offsets(path: Path, cache_dir: str | os.PathLike | None) -> Path:
    """Return the file of offsets: made once for each content, told by size and time of change."""
    stat = path.stat()
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    folder = Path(cache_dir) if cache_dir is not None else _default_cache()
    file = folder / f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.offsets.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        offsets = find_offsets(path)
        partial = file.with_suffix(f".{os.getpid()}.tmp")
        with partial.open("wb") as out:
            np.save(out, offsets)
        partial.replace(file)  # in one step: several processes may do this at once
    return file


def _default_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "livecc_hf"


def find_offsets(path: str | os.PathLike) -> np.ndarray:
    """Return where the lines of a file begin, and where the last one ends.

    A last line of offsets is used where it is right and said to be wrong where it is not; it is no line of data.

    Returns:
        int64 array of shape (lines + 1,).

    Raises:
        ValueError: if the file holds no line.
    """
    path = Path(path)
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: expected one JSON value a line")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start, end = _last_line(data)
        listed = _listed_offsets(data[start:end]) if data[start : start + 1] == b"[" else None
        if listed is not None:
            offsets = np.append(listed, start)
            fault = _fault(data, offsets)
            if fault is None:
                return offsets
            logger.warning("the last line of %s lists wrong offsets (%s): scanning the file instead", path, fault)
            end = start
        offsets = _scan(data, end)
    if len(offsets) < 2:
        raise ValueError(f"{path} holds no line of data")
    return offsets


def _last_line(data: mmap.mmap) -> tuple[int, int]:
    """Return begin and end of the last line that is not blank."""
    end = len(data)
    while end and data[end - 1 : end] in (b"\n", b"\r", b" "):
        end -= 1
    return data.rfind(b"\n", 0, end) + 1, end


def _listed_offsets(line: bytes) -> np.ndarray | None:
    """Return the integers of a line such as `[0, 1234, 5678]`, or `None` if it is something else."""
    body = line.strip()
    if not body.endswith(b"]") or body.translate(None, b"0123456789, []\r\n\t"):
        return None
    return np.array(json.loads(body), dtype=np.int64)


def _fault(data: mmap.mmap, offsets: np.ndarray) -> str | None:
    """Return what is wrong with listed offsets, or `None`: order, ends, and a sample of lines are checked."""
    if len(offsets) < 2 or offsets[0] != 0:
        return "the first line does not begin at byte 0"
    if (np.diff(offsets) <= 0).any():
        return "they do not increase"
    sample = np.unique(np.linspace(0, len(offsets) - 2, _CHECKED_LINES).astype(int))
    for index in sample:
        start, end = int(offsets[index]), int(offsets[index + 1])
        line = data[start:end].rstrip(b"\r\n")
        if (start and data[start - 1 : start] != b"\n") or b"\n" in line or line[:1] not in (b"{", b"["):
            return f"number {index} is no line's begin"
    return None


def _scan(data: mmap.mmap, end: int) -> np.ndarray:
    """Return begins of the lines before byte `end`, blank ones left out, and `end`."""
    begins = []
    start = 0
    while start < end:
        stop = data.find(b"\n", start, end)
        stop = end if stop < 0 else stop + 1
        if data[start:stop].strip():
            begins.append(start)
        start = stop
    return np.array([*begins, end], dtype=np.int64)
