"""Reads ahead in a thread: what comes next is decoded and resized while the model speaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


def read_ahead(items: Iterable, n_items: int = 4) -> Iterator:
    """Yield the items of an iterable that a thread walks through, a bounded number ahead.

    Args:
        items: what to walk through; only that thread touches it.
        n_items: how many may wait.

    Raises:
        Exception: what the iterable raised, after the items before it.
    """
    end, iterator = object(), iter(items)
    with ThreadPoolExecutor(1, "read-ahead") as reader:

        def read_next() -> Future[Any]:
            return reader.submit(next, iterator, end)

        waiting = deque(read_next() for _ in range(n_items))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(read_next())
                yield item
        finally:
            for each in waiting:
                each.cancel()
            if hasattr(iterator, "close"):
                reader.submit(iterator.close)  # there, where it ran
