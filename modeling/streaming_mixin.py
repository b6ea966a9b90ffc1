"""The model's streaming methods: start a live commentary, or comment on a whole video."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from .attention import PackedBatch
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
    """Return an iterator over a file's frames as `CommentaryStream.push` takes them: (prepared frames, [time in s]).

    Args:
        path: a file that PyAV reads; opened by this call, not by the first iteration.
        start_s, end_s: the part to read, in seconds from what a player shows as 0:00, like the returned times.
        prepare: `CommentaryStream.prepare`; called with frames uint8 (T, 3, H, W).
    """
    frames = iter_frames(path, start_s, end_s, origin_s=read_clock_start_s(path))
    return ((prepare(item.frame[None]), [item.time_s]) for item in frames)


class StreamingMixin:
    """The streaming methods of `LiveCCForConditionalGeneration`.

    Attributes:
        decode_step: optional; called with the model, the streams' caches and the number of tokens to decode, it returns
            a faster decode step, or `None` if it has none for these.
        packed_batch: `PackedBatch`, or a subclass of it that attends faster.
        read_file: the function :func:`read_file`, or a better reader with the same signature.
    """

    decode_step: Callable | None = None
    packed_batch: type[PackedBatch] = PackedBatch
    read_file: Callable[..., Iterable] = staticmethod(read_file)

    def start_stream(
        self: interfaces.ModelForStreams,
        processor: interfaces.ProcessorForStreams,
        options: StreamOptions | None = None,
        **keywords,
    ) -> CommentaryStream:
        """Start a live commentary.

        Args:
            processor: the model's `StreamingProcessor`.
            options: the stream's options.
            **keywords: fields of :class:`StreamOptions` that override `options`, such as `query` or `do_sample`.

        Raises:
            ValueError: if an option is unknown or out of range, or as in :class:`CommentaryStream`.
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
            start_s, end_s: the part of the file to comment on, in seconds from what a player shows as 0:00.
            options: the stream's options.
            **keywords: fields of :class:`StreamOptions` that override `options`.

        Returns:
            An iterator over one :class:`CommentarySegment` per turn, also for silent turns. Times of a file are on the
            clock of `start_s`; times of frames count from the first frame.

        Raises:
            ValueError: if an option or the source is invalid; the file's content is checked while it is read.
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
    """Push chunks of (frames, times) and yield the segments, also those completed before a `ContextFullError`."""
    try:
        for frames, times_s in chunks:
            yield from stream.push(frames, times_s)
        yield from stream.finish()
    except ContextFullError as error:
        yield from error.segments
        error.segments = ()
        raise
