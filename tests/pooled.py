"""Helpers for tests of pools."""

import os
import threading
from pathlib import Path

import torch

from livecc_hf.modeling import StreamOptions

OPTIONS = StreamOptions(
    do_sample=False,
    max_new_tokens=6,
    repetition_penalty=1.1,
    output_logits=True,
    max_pixels=28 * 28 * 12,
    min_pixels=28 * 28 * 4,
    vision_window_s=4,
    text_window=80,
    text_sink=40,
)


def run_all(pool):
    while pool.step():
        pass


def run_in_time(function, limit_s=20):
    """Run a function in a thread, so that a deadlock fails the test instead of stopping it."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(limit_s)
    assert not thread.is_alive()


def taken(stream):
    segments = []
    while (segment := stream.take()) is not None:
        segments.append(segment)
    return segments


def assert_same(got, expected):
    assert got == expected
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.logits, b.logits, atol=1e-4, rtol=0)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reserved_bytes(memory):
    """Return the bytes of keys and values in a KV cache pool."""
    return sum(held.nbytes for layer in memory.layers for held in layer)


def n_handles():
    return len(list(Path("/proc/self/fd").iterdir()))
