"""Errors that end a run, since no item is at fault."""

from __future__ import annotations


class StageBrokenError(ValueError):
    """A stage fails on every item, so none of them is at fault: a missing model, an endpoint that is down."""


class DeviceError(StageBrokenError):
    """The accelerator failed. Every later item in its process fails too, so no item may be dropped for it."""
