"""Reads ahead in a thread: what comes next is decoded and resized while the model speaks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def read_ahead(items: Iterable[Item], n_items: int = 4) -> Iterator[Item]:
    """Yield the items of an iterable that a thread walks through, a bounded number ahead.

    Args:
        items: what to walk through; only that thread touches it.
        n_items: how many may wait.

    Raises:
        Exception: what the iterable raised, after the items before it.
    """
    ready: queue.Queue = queue.Queue(maxsize=n_items)
    stop = threading.Event()

    def put(value) -> bool:
        while not stop.is_set():
            try:
                ready.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def walk() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not put((item, None)):
                    break
            else:
                put((_END, None))
        except BaseException as error:
            put((_END, error))
        finally:
            if hasattr(iterator, "close"):
                iterator.close()  # here, where it ran

    thread = threading.Thread(target=walk, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()
