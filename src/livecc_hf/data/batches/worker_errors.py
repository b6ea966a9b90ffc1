"""Errors in the data loader's workers, raised in the main process as they are."""

from __future__ import annotations

import pickle
import traceback
from typing import NoReturn

from torch._utils import ExceptionWrapper

from ...utils.carried_errors import pickle_error


class WorkerTraceback(Exception):  # noqa: N818 (it is no error, but the cause of one)
    """The traceback of an error in a worker process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class WorkerError(ExceptionWrapper):
    """An error of a worker. A batch loader returns it instead of a batch, and PyTorch's data loader re-raises it.

    PyTorch's own wrapper raises a new error whose message is the worker's whole traceback, without attributes such as
    the number and the file of an `OSError`.

    Args:
        error: the error, as caught in the worker.
    """

    def __init__(self, error: Exception):  # not the base class's: it stores the type, which may not be importable
        self._pickled = pickle_error(error)
        self._traceback = "".join(traceback.format_exception(error))

    def reraise(self) -> NoReturn:
        """Raise the error, with the worker's traceback as its cause."""
        raise pickle.loads(self._pickled) from WorkerTraceback(self._traceback)
