"""The exception for a sample that cannot be used, with a reason that can be counted."""

from __future__ import annotations

REASONS = {
    "missing_file": "a media file does not exist",
    "unreadable_media": "a media file cannot be decoded",
    "no_frames": "no frame lies in the clip's time",
    "no_words": "no word to learn is spoken within the clip's frames",
    "too_many_tokens": "it does not fit the token limit, even cut to its first turn",
    "malformed": "the row is not in a form that is known",
}


class UnusableSample(ValueError):  # noqa: N818 (it names what it is about)
    """A sample cannot be used for training; the run continues without it.

    Args:
        reason: one of `REASONS`.
        message: what is wrong, naming the value.

    Raises:
        ValueError: if the reason is unknown.
    """

    def __init__(self, reason: str, message: str):
        if reason not in REASONS:
            raise ValueError(f"reason is {reason!r}: expected one of {', '.join(REASONS)}")
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.reason, str(self))  # so that it can be pickled between processes
