"""Errors that travel from a node of a cluster to the process that started the run."""

import errno
import pickle

import pytest

from livecc_hf.utils.carried_errors import pickle_error
from livecc_hf.utils.disk import DiskFullError, is_disk_full


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        DiskFullError("Error while serializing: I/O error (os error 28)"),  # a library's words, without a number
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    ],
    ids=["a number", "words with a number", "words"],
)
def test_a_full_disk_arrives_as_one(error):
    carried = pickle.loads(pickle_error(error))
    assert isinstance(carried, OSError)
    assert is_disk_full(carried)
    assert (error.strerror if error.args[1:] else str(error)) in str(carried)


def test_an_error_that_does_not_travel_arrives_with_its_text():
    class StrangeError(ValueError):  # of no module that could be imported there
        pass

    carried = pickle.loads(pickle_error(StrangeError("odd")))
    assert str(carried) == "StrangeError: odd"
