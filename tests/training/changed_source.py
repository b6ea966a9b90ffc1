"""The tiny source with items changed by a test."""

import contextlib

from livecc_hf.data.dataset import SOURCES, register_source
from livecc_hf.data.sources.tiny import TinyPart, TinySource


@contextlib.contextmanager
def tiny_source(name: str, part_class: type[TinyPart]):
    """Register, in a block, the tiny source under another name, with parts of another class."""

    class ChangedSource(TinySource):
        def open(self, entry, seed):
            part = super().open(entry, seed)
            part.__class__ = part_class
            return part

    register_source(name)(ChangedSource)
    try:
        yield
    finally:
        del SOURCES[name]
