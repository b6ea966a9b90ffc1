"""Many live commentaries on one model."""

from .pool import CommentaryPool, PoolFullError, PoolStoppedError
from .stream import OverloadedError, PooledStream, StreamEndedError

__all__ = [
    "CommentaryPool",
    "OverloadedError",
    "PoolFullError",
    "PoolStoppedError",
    "PooledStream",
    "StreamEndedError",
]
