"""Decodes the sound of a video for speech recognition, keeping it in step with the video's clock."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

SPEECH_RATE_HZ = 16_000


class NoAudioError(ValueError):
    """The file holds no audio stream."""


@dataclass(frozen=True)
class SpeechAudio:
    """The sound of a file.

    Attributes:
        samples: float32 of shape (samples,), mono, 16 kHz, from -1 to 1.
        start_s: when the first sample is heard, on the file's clock.
    """

    samples: np.ndarray
    start_s: float


def decode_speech(path: str | os.PathLike) -> SpeechAudio:
    """Decode the first audio stream of a file, past damage.

    Where the file has no sound for a while, there is silence, so that sample `i` is heard at
    `start_s + i / SPEECH_RATE_HZ` (faster-whisper's own decoder joins what is left, and times drift from there).

    Raises:
        NoAudioError: if there is no audio stream.
        ValueError: if the file cannot be read, or nothing of its sound decoded.
    """
    import av

    try:
        container = av.open(os.fspath(path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read: {reason}") from error
    with container:
        if not container.streams.audio:
            raise NoAudioError(f"{path} has no audio stream")
        parts, start_s = _resampled(container, container.streams.audio[0])
    if not parts:
        raise ValueError(f"{path}: nothing of its audio stream could be decoded")
    return SpeechAudio(np.concatenate(parts).astype(np.float32) / 32768, start_s)  # 16-bit samples


def _resampled(container, stream) -> tuple[list[np.ndarray], float]:
    import av

    graph, start_s, parts = None, 0.0, []
    layout = None
    for frame in _frames(container, stream):
        if frame.pts is None or not frame.samples:
            continue
        if (frame.sample_rate, frame.layout.name, frame.format.name) != layout:
            # The format changes where files were joined: what the old graph holds comes first.
            parts += _drain(graph) if graph else []
            layout = (frame.sample_rate, frame.layout.name, frame.format.name)
            if not parts:
                start_s = float(frame.pts * frame.time_base)
            graph = _resampling_graph(stream, frame)
        try:
            graph.push(frame)
        except av.error.FFmpegError:
            continue
        parts += _pulled(graph)
    return parts + (_drain(graph) if graph else []), start_s


def _frames(container, stream):
    import av

    try:
        for packet in container.demux(stream):
            try:
                yield from stream.decode(packet)
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                continue  # a damaged spot: the resampler fills it with silence
    except (av.error.FFmpegError, OSError):
        return


def _resampling_graph(stream, frame):
    import av

    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=frame.sample_rate, format=frame.format.name, layout=frame.layout.name, time_base=stream.time_base
    )
    # async=1 fills gaps between timestamps with silence and cuts overlaps, and stretches nothing.
    resample = graph.add("aresample", f"{SPEECH_RATE_HZ}:async=1")
    convert = graph.add("aformat", f"sample_fmts=s16:channel_layouts=mono:sample_rates={SPEECH_RATE_HZ}")
    graph.link_nodes(source, resample, convert, graph.add("abuffersink")).configure()
    return graph


def _drain(graph) -> list[np.ndarray]:
    graph.push(None)
    return _pulled(graph)


def _pulled(graph) -> list[np.ndarray]:
    import av

    parts = []
    while True:
        try:
            parts.append(graph.pull().to_ndarray().reshape(-1))
        except (av.error.BlockingIOError, av.error.EOFError):
            return parts
