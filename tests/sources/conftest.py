"""Fixtures of several tests of sources."""

import os

import pytest


@pytest.fixture
def pipe():
    """A pipe as (file descriptor to read, file to write); write from a thread, since the reader may be slow."""
    read_fd, write_fd = os.pipe()
    writer = os.fdopen(write_fd, "wb", buffering=0)
    yield read_fd, writer
    writer.close()
    os.close(read_fd)
