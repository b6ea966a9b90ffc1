"""Chooses the audio stream that belongs to a file's video."""

from __future__ import annotations

from typing import Any

from livecc_hf.modeling.video_file import import_av


def choose_sound(container: Any, video: Any) -> Any | None:
    """Return the audio stream of an open file that a player would play.

    Args:
        container: an `av` input container.
        video: the chosen video stream, or `None`; in a broadcast of several programs, each has its own sound.

    Returns:
        `None` if no audio stream can be decoded.
    """
    # A stream without a sample rate has a missing or damaged description.
    streams = [s for s in container.streams.audio if s.codec_context is not None and s.codec_context.sample_rate]
    usual = container.streams.best("audio", video)

    def rank(stream: Any) -> tuple:
        return recommendation(stream), usual is not None and stream.index == usual.index

    return max(streams, key=rank, default=None)


def recommendation(stream: Any) -> int:
    """Return a stream's rank by its flags: default streams first, those for some listeners only last."""
    kinds = import_av().stream.Disposition
    special = kinds.hearing_impaired | kinds.visual_impaired | kinds.descriptions | kinds.comment | kinds.dub
    return bool(stream.disposition & kinds.default) - 2 * bool(stream.disposition & special)
