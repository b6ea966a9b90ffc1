"""Caches the answers of a language model in a file, so that no question is asked and paid for twice."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

_BUSY_S = 60  # how long to wait for a lock of another process


class AnswerCacheError(ValueError):
    """The cache cannot be read or written; the run ends, as without it every question would be paid for again."""


class AnswerCache:
    """Answers by question, in an SQLite file that threads and processes of one machine may share.

    An answer is in the file when `put` returns, so that it survives a killed run.

    Args:
        path: the file, created if missing; `None`: nothing is cached.

    Raises:
        ValueError: if the file is not an answer cache, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike | None):
        self.path = path
        self._lock = threading.Lock()
        self._connection = None
        if path is None:
            return
        try:
            Path(path).expanduser().parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                Path(path).expanduser(), timeout=_BUSY_S, check_same_thread=False, isolation_level=None
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except (sqlite3.Error, OSError) as error:
            raise ValueError(
                f"cache {path} cannot be used: {error}; expected a file written by an earlier run, or a new one in a "
                "folder that can be written"
            ) from error

    @staticmethod
    def key(*parts: Any) -> str:
        """Return the key of a question: a hash of everything that its answer depends on, as JSON values."""
        text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def get(self, key: str) -> Any | None:
        """Return the cached answer, or `None`.

        Raises:
            AnswerCacheError: if the file cannot be read.
        """
        if self._connection is None:
            return None
        try:
            with self._lock:
                row = self._connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._broken("read", error) from error
        return None if row is None else json.loads(row[0])

    def put(self, key: str, answer: Any) -> None:
        """Store an answer.

        Raises:
            OSError: if the disk is full (ENOSPC).
            AnswerCacheError: if the file cannot be written for another reason.
        """
        if self._connection is None:
            return
        try:
            with self._lock:
                self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                text = f"answers cannot be written: {error}; free some space there"
                raise OSError(errno.ENOSPC, text, str(self.path)) from error
            raise self._broken("written", error) from error

    def _broken(self, what: str, error: sqlite3.Error) -> AnswerCacheError:
        """Return the error that ends the run."""
        return AnswerCacheError(
            f"cache {self.path} cannot be {what}: {error}. Finished work is kept: close other programs that use the "
            "file, or make it writable, and run the same command again"
        )

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
