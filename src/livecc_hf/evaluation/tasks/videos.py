"""Finds the videos of a benchmark in a folder, independent of how its archives were unpacked."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".ts", ".flv", ".gif"})


class VideoFolder:
    """Finds videos and folders of frames by path, by name, or by name without suffix.

    Args:
        root: the folder, which is searched recursively, also through links.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f"--videos {self.root} is not a folder: expected one with the benchmark's videos")
        self._by_name: dict[str, Path] = {}
        self._by_stem: dict[str, Path] = {}
        visited: set[str] = set()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            if (real := os.path.realpath(folder)) in visited:  # a link to a folder above it would never end
                folders.clear()
                continue
            visited.add(real)
            for name in sorted(names):
                path = Path(folder) / name
                if path.suffix.lower() in _SUFFIXES:
                    self._by_name.setdefault(name, path)
                    self._by_stem.setdefault(path.stem, path)
            for name in sorted(folders):
                self._by_name.setdefault(name, Path(folder) / name)

    def find(self, names: Sequence[str]) -> Path | None:
        """Return the path of the first name that is found, or `None`.

        Each name is tried as a path in the folder, as a file name anywhere in it, and with another video suffix. It may
        have Windows separators.
        """
        for name in filter(None, names):
            path = self.root / name
            if os.path.exists(path):  # noqa: PTH110 (`Path.exists` raises an error for names that are too long)
                return path
            base = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
            found = self._by_name.get(base)
            found = found or (self._by_stem.get(Path(base).stem) if Path(base).suffix.lower() in _SUFFIXES else None)
            if found is not None:
                return found
        return None
