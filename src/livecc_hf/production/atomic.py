"""Moved to `livecc_hf.utils.atomic`."""

from ..utils.atomic import flush, replaced_when_done, write_json

__all__ = ["flush", "replaced_when_done", "write_json"]
