"""The exception for a sample that cannot be trained on, with a reason for statistics."""

from __future__ import annotations

REASONS = {
    "missing_file": "a media file does not exist",
    "unreadable_media": "a media file cannot be decoded",
    "no_frames": "the video has no frame between the clip's start and end",
    "no_words": "no word is spoken within the clip's frames, so there is nothing to learn",
    "too_many_tokens": "it exceeds the token limit, even when cut to its first turn",
    "malformed": "the row is in none of the supported formats, or has an invalid value",
}


class UnusableSample(ValueError):  # noqa: N818 (named after the sample)
    """A sample cannot be used for training; the run continues without it.

    Args:
        reason: one of `REASONS`.
        message: what is wrong, including the offending value.

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
