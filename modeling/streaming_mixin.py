"""The streaming methods of the model: start a commentary, or comment on a whole video in one line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from .context import ContextFullError
from .frames import frame_batches
from .stream import CommentarySegment, CommentaryStream
from .stream_options import StreamOptions, stream_options
from .video_file import read_clock_start_s
from .video_sampling import iter_frames

if TYPE_CHECKING:
    from . import interfaces  # this form keeps the file out of a model's folder


def read_file(
    path: str | os.PathLike, start_s: float | None, end_s: float | None, prepare: Callable[[torch.Tensor], Any]
) -> Iterator[tuple[Any, list[float]]]:
    """Return an iterator over what a stream is pushed of a file: prepared frames, and their times in seconds.

    Args:
        path: a file that PyAV reads; it is looked at when this is called.
        start_s, end_s: which part, in seconds from what a player shows as 0:00, as are the times given.
        prepare: makes of frames, uint8 (T, 3, H, W), what is pushed.
    """
    frames = iter_frames(path, start_s, end_s, origin_s=read_clock_start_s(path))
    return ((prepare(item.frame[None]), [item.time_s]) for item in frames)


class StreamingMixin:
    """The streaming methods of `LiveCCForConditionalGeneration`.

    Attributes:
        decode_step: returns a faster way to read generated tokens, or `None`, given the model, the streams' caches and
            how many tokens will be read; itself `None` where there is none.
        attend_causal: a faster attention from a turn's tokens, given query, keys, values and scale as `PackedBatch` has
            them; returns `None` where it is none, and is itself `None` where there is none.
        read_file: as the function of this name; a better reader may take its place.
    """

    decode_step: Callable | None = None
    attend_causal: Callable | None = None
    read_file: Callable[..., Iterable] = staticmethod(read_file)

    def start_stream(
        self: interfaces.ModelForStreams,
        processor: interfaces.ProcessorForStreams,
        options: StreamOptions | None = None,
        **keywords,
    ) -> CommentaryStream:
        """Start a commentary.

        Args:
            processor: the model's `StreamingProcessor`.
            options: a :class:`StreamOptions`; keywords of the same names are laid over it.
            **keywords: such as `query`, `do_sample` or `max_new_tokens`: the fields of :class:`StreamOptions`.

        Raises:
            ValueError: if an option is unknown or out of range, or the model is in training mode.
        """
        return CommentaryStream(self, processor, stream_options(options, keywords))

    def stream_generate(
        self: interfaces.ModelForStreams,
        processor: interfaces.ProcessorForStreams,
        video: str | os.PathLike | Iterable,
        start_s: float | None = None,
        end_s: float | None = None,
        options: StreamOptions | None = None,
        **keywords,
    ) -> Iterator[CommentarySegment]:
        """Comment on a whole video, segment by segment, while it is read.

        Args:
            processor: the model's `StreamingProcessor`.
            video: a file that PyAV reads, or frames at 2 per second: uint8 (T, 3, H, W) as a tensor or NumPy array
                (also (T, H, W, 3)), a list of PIL images, or an iterable of such parts.
            start_s: where in the file to start, in seconds from what a player shows as 0:00.
            end_s: where in the file to stop.
            options: a :class:`StreamOptions`; keywords of the same names are laid over it.
            **keywords: as in :meth:`start_stream`.

        Returns:
            An iterator over one :class:`CommentarySegment` a turn, silent ones included; times as of `start_s`.

        Raises:
            ValueError: if an option or the source is not valid; the file's content is checked while it is read.
        """
        stream = CommentaryStream(self, processor, stream_options(options, keywords))
        if isinstance(video, str | os.PathLike):
            chunks: Iterable = self.read_file(video, start_s, end_s, stream.prepare)
        elif start_s is not None or end_s is not None:
            raise ValueError("start_s and end_s need a file: cut the frames before passing them")
        else:
            chunks = ((frames, None) for frames in frame_batches(video))
        return _commentate(stream, chunks)


def _commentate(stream: CommentaryStream, chunks: Iterable) -> Iterator[CommentarySegment]:
    """Push chunks of (frames, times) and yield what comes, also what came before the context was full."""
    try:
        for frames, times_s in chunks:
            yield from stream.push(frames, times_s)
        yield from stream.finish()
    except ContextFullError as error:
        yield from error.segments
        error.segments = ()
        raise
