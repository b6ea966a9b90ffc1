"""Reads files ahead in a thread: the next frames are decoded and resized while the model generates."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from .probe import probe_video
from .reader import iter_chunks


def read_file(
    path: str | os.PathLike, start_s: float | None, end_s: float | None, prepare: Callable[[torch.Tensor], Any]
) -> Iterator[tuple[Any, list[float]]]:
    """Yield a file's frames as `StreamingMixin.read_file` does, but read ahead and past damage."""
    chunks = iter_chunks(path, start_s, end_s, origin_s=probe_video(path).clock_start_s)
    return read_ahead((prepare(chunk.frames), chunk.timestamps_s) for chunk in chunks)


def read_ahead(items: Iterable, n_items: int = 4) -> Iterator:
    """Yield the items of an iterable, which a thread reads ahead.

    Args:
        items: the iterable; its iterator is closed at the end.
        n_items: how many items to read ahead.

    Raises:
        Exception: any exception of the iterable, after the items before it.
    """
    end, iterator = object(), iter(items)
    try:
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            waiting = deque(reader.submit(next, iterator, end) for _ in range(n_items))
            try:
                while (item := waiting.popleft().result()) is not end:
                    waiting.append(reader.submit(next, iterator, end))
                    yield item
            finally:
                for each in waiting:
                    each.cancel()
    finally:
        if hasattr(iterator, "close"):
            iterator.close()
