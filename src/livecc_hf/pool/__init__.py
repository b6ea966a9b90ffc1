"""Many live commentaries on one model."""

from .overload import OverloadedError, OverloadPolicy
from .pool import CommentaryPool, PoolFullError, PoolStoppedError
from .stream import PooledStream, StreamEndedError

__all__ = [
    "CommentaryPool",
    "OverloadPolicy",
    "OverloadedError",
    "PoolFullError",
    "PoolStoppedError",
    "PooledStream",
    "StreamEndedError",
]
