"""What ends a run: a fault that is not in the items."""

from __future__ import annotations


class StageBrokenError(ValueError):
    """A stage fails on everything, so the fault is not in the items: a missing model, an endpoint that is down."""


class DeviceError(StageBrokenError):
    """The accelerator failed: what its process is given next fails too, whatever it is, so nothing may be dropped."""
