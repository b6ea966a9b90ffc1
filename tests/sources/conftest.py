"""What several tests of sources read from."""

import os

import pytest


@pytest.fixture
def pipe():
    """A pipe as (file descriptor to read, file to write); what reads may be slow, so writing is done in threads."""
    read_fd, write_fd = os.pipe()
    writer = os.fdopen(write_fd, "wb", buffering=0)
    yield read_fd, writer
    writer.close()
    os.close(read_fd)
