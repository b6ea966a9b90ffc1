"""Errors that stop a run because the fault lies in a stage or a device, not in an item."""

from __future__ import annotations


class StageBrokenError(ValueError):
    """A stage fails on every item, so that no item is at fault: a missing model, an endpoint that is down."""


class DeviceError(StageBrokenError):
    """The accelerator failed. Every later item in that process would fail too, so no item may be dropped."""
