"""Reads ahead in a thread: what comes next is decoded and resized while the model speaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


def read_ahead(items: Iterable, n_items: int = 4) -> Iterator:
    """Yield the items of an iterable that a thread walks through, a bounded number ahead.

    Args:
        items: what to walk through; it is closed at the end.
        n_items: how many may wait.

    Raises:
        Exception: what the iterable raised, after the items before it.
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
