"""Decodes the sound of a video for speech recognition, aligned with the video's clock.

Decoded sound is collected in runs (sound without a gap), which are then placed in time. Thus a gap becomes silence,
sound keeps its time after a change of format, and a timestamp that fits neither the run before nor the run after it
counts as damage.
"""

from __future__ import annotations

import os
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from ...modeling.video_file import VideoReadWarning, choose_video, clock_start, open_video
from ...video.sound import choose_sound
from ...video.times import SteadyClock

SPEECH_RATE_HZ = 16_000
# A longer forward jump of the timestamps counts as damage, as in `iter_frames`.
MAX_SILENCE_S = 3600.0
# Longest silence that is kept as samples: twice the 30 s window of a recogniser.
KEPT_SILENCE_S = 60.0
# Timestamps of consecutive sound deviate by less than this.
_JITTER_S = Fraction(1, 10)
# A single run with an odd timestamp counts as damage if it is shorter than this.
_LONE_S = 1
# Demuxing stops after this many errors in a row.
_MAX_ERRORS = 20


class NoAudioError(ValueError):
    """The file has no audio stream."""


@dataclass(frozen=True)
class SpeechAudio:
    """The sound of a file.

    Attributes:
        samples: float32 of shape (samples,), mono, 16 kHz, from -1 to 1.
        start_s: time of the first sample on the file's clock.
        clock_start_s: time at which a player shows 0:00 on the file's clock.
        cuts: `(sample, seconds)` in order: seconds of silence left out before that sample.
        damage: descriptions of the damage; empty if there is none.
    """

    samples: np.ndarray
    start_s: float
    clock_start_s: float = 0.0
    cuts: tuple[tuple[int, float], ...] = ()
    damage: tuple[str, ...] = ()

    def shown_s(self, sound_s: float) -> float:
        """Return the time in seconds that a player shows at a time of the sound.

        Args:
            sound_s: seconds from the first of `samples`.
        """
        n_before = bisect_right(self.cuts, sound_s * SPEECH_RATE_HZ, key=lambda cut: cut[0])
        left_out_s = sum(seconds for _, seconds in self.cuts[:n_before])
        return self.start_s - self.clock_start_s + sound_s + left_out_s


def decode_speech(path: str | os.PathLike, max_silence_s: float = MAX_SILENCE_S) -> SpeechAudio:
    """Decode the audio stream that a player would choose, skipping damaged parts.

    Gaps in the sound become silence, so that sample `i` is heard at `start_s + i / SPEECH_RATE_HZ`, plus the silences
    left out before it. (faster-whisper's own decoder leaves gaps out, so that its times drift.) A silence keeps its
    first minute; the rest is left out and recorded in `cuts`.

    Args:
        path: a video or audio file.
        max_silence_s: a longer forward jump of the timestamps counts as damage and is ignored.

    Raises:
        FileNotFoundError: if the file does not exist.
        NoAudioError: if there is no audio stream.
        ValueError: if the file cannot be read, or none of its sound can be decoded.

    Warns:
        VideoReadWarning: if part of the sound is damaged.
    """
    with open_video(path) as container:
        stream = find_audio_stream(container, path)
        zero = clock_start(container)
        reader = _Reader(container, stream)
        runs = reader.runs()
    if not runs:
        raise ValueError(f"{path}: its audio stream cannot be decoded{reader.message()}")
    layout = _Layout(max_silence_s)
    samples, start, cuts = layout.place(runs)
    damage = (*reader.damage(), *layout.damage())
    if damage:
        warnings.warn(f"{path}: its sound is damaged: {'; '.join(damage)}", VideoReadWarning, stacklevel=2)
    return SpeechAudio(samples.astype(np.float32) / 32768, float(start), float(zero), cuts, damage)  # 16-bit samples


def find_audio_stream(container: Any, path: str | os.PathLike) -> Any:
    """Return the audio stream that a player would choose.

    Raises:
        NoAudioError: if there is no audio stream.
        ValueError: if no audio stream has a decoder.
    """
    stream = choose_sound(container, choose_video(container))
    if stream is not None:
        return stream
    if container.streams.audio:
        raise ValueError(
            f"{path} has sound in a format without a decoder: its format is unknown, or the file is damaged"
        )
    raise NoAudioError(f"{path} has no audio stream")


@dataclass
class _Run:
    """Sound without a gap.

    Attributes:
        start: seconds on the file's clock; `None`: directly after the run before it.
        parts: samples, int16.
    """

    start: Fraction | None
    parts: list[np.ndarray] = field(default_factory=list)

    @property
    def n_samples(self) -> int:
        return sum(map(len, self.parts))

    @property
    def length(self) -> Fraction:
        return Fraction(self.n_samples, SPEECH_RATE_HZ)


class _Reader:
    """Decodes a stream into runs and counts damaged spots."""

    def __init__(self, container: Any, stream: Any):
        self._container, self._stream = container, stream
        self._n_damaged = 0
        self._broke_off: str | None = None
        self._runs: list[_Run] = []
        self._resampler: Any = None
        self._format: tuple | None = None
        self._n_read = Fraction(0)  # seconds decoded into the newest run

    def damage(self) -> list[str]:
        """Return descriptions of the damage."""
        spots = f"{self._n_damaged} damaged spot(s) were skipped"
        return [spots] * bool(self._n_damaged) + [f"reading broke off ({self._broke_off})"] * bool(self._broke_off)

    def message(self) -> str:
        """Return the descriptions of the damage as the end of a message."""
        return f": {'; '.join(self.damage())}" if self.damage() else ""

    def runs(self) -> list[_Run]:
        """Return the runs of the whole stream, in the order in which they are stored."""
        for frame in self._frames():
            if frame.samples and frame.sample_rate:
                self._add(frame)
        self._drain()
        return [run for run in self._runs if run.parts]

    def _frames(self) -> Iterator[Any]:
        import av

        for packet in self._packets():
            if packet.size and packet.is_corrupt:
                self._n_damaged += 1
            try:
                frames = self._stream.decode(packet)
            except av.error.EOFError:
                return
            except Exception as error:  # a damaged packet must not stop the decoding
                _raise_if_out_of_memory(error)
                self._n_damaged += 1
                continue
            yield from frames

    def _packets(self) -> Iterator[Any]:
        import av

        n_errors = 0
        while n_errors < _MAX_ERRORS:
            try:
                for packet in self._container.demux(self._stream):
                    n_errors = 0
                    yield packet
                return
            except (av.error.EOFError, IndexError):
                return  # at the end of the file PyAV fails on streams that appeared after it was opened
            except Exception as error:
                _raise_if_out_of_memory(error)
                n_errors += 1
                self._n_damaged += 1
                reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        self._broke_off = reason

    def _add(self, frame: Any) -> None:
        time = None
        if frame.pts is not None:
            time = frame.pts * Fraction(frame.time_base or self._stream.time_base)
        form = (frame.sample_rate, frame.layout.name, frame.format.name)
        run = self._runs[-1] if self._runs and form == self._format else None
        if run is not None and run.start is not None and time is not None:
            follows = abs(time - run.start - self._n_read) <= _JITTER_S
            run = run if follows else None
        if run is None:
            self._begin(time, form)
        elif run.start is None and time is not None:
            run.start = time - self._n_read
        self._push(frame)
        self._n_read += Fraction(frame.samples, frame.sample_rate)

    def _begin(self, time: Fraction | None, form: tuple) -> None:
        import av

        self._drain()
        self._runs.append(_Run(time))
        self._resampler = av.AudioResampler("s16", "mono", SPEECH_RATE_HZ)
        self._format, self._n_read = form, Fraction(0)

    def _push(self, frame: Any) -> None:
        try:
            resampled = self._resampler.resample(frame)
        except Exception as error:
            _raise_if_out_of_memory(error)
            self._n_damaged += 1
            return
        # For input that needs no resampling, the resampler returns what it was given, even `None`.
        self._runs[-1].parts += [part.to_ndarray().reshape(-1) for part in resampled if part is not None]

    def _drain(self) -> None:
        if self._resampler is not None:
            self._push(None)


class _Layout:
    """Places runs in time, by the same rule as for pictures (`SteadyClock`).

    Args:
        max_silence_s: a longer forward jump counts as damage.
    """

    def __init__(self, max_silence_s: float):
        # The clock's last time is kept at the end of the sound so far, less the jitter by which the next run may be
        # early.
        self._clock = SteadyClock(_JITTER_S, max_silence_s)
        self._shift = Fraction(0)  # seconds by which the file's timestamps currently run ahead
        self._n_lone = self._n_past = 0
        self._past = Fraction(0)

    def damage(self) -> list[str]:
        """Return descriptions of the damage."""
        notes = []
        if self._n_lone:
            notes.append(f"{self._n_lone} timestamp(s) that do not fit their neighbours were ignored")
        if self._n_past:
            notes.append(f"{float(self._past):.1f} s with a timestamp in the past were skipped")
        self._clock.n_backward = 0  # reported above, in seconds
        return notes + self._clock.faults()

    def place(self, runs: list[_Run]) -> tuple[np.ndarray, Fraction, tuple[tuple[int, float], ...]]:
        """Return all samples (int16), the time of the first, and the cuts as in `SpeechAudio`."""
        self._clear_lone_times(runs)
        parts: list[np.ndarray] = []
        cuts: list[tuple[int, float]] = []
        start = next((run.start for run in runs if run.start is not None), Fraction(0))
        reached, n_samples = start, 0
        kept, left_out = Fraction(KEPT_SILENCE_S), Fraction(0)
        for run in runs:
            gap = self._gap(run, reached)
            if gap >= 0:
                left_out += max(gap - kept, Fraction(0))
                # Counted from the start, so that rounding errors do not add up.
                silence = max(round((reached + gap - left_out - start) * SPEECH_RATE_HZ) - n_samples, 0)
                if gap > kept:
                    cuts.append((n_samples + silence, float(gap - kept)))
                samples = [np.zeros(silence, np.int16), *run.parts]
                reached += gap + run.length
            else:
                past = min(-gap, run.length)
                self._n_past += 1
                self._past += past
                samples = [np.concatenate(run.parts)[round(past * SPEECH_RATE_HZ) :]]
                reached += run.length - past
            parts += samples
            n_samples += sum(map(len, samples))
        return np.concatenate(parts), start, tuple(cuts)

    def _gap(self, run: _Run, reached: Fraction) -> Fraction:
        """Return the seconds of silence before a run; if negative, by how many seconds it starts in the past."""
        clock = self._clock
        if run.start is None:
            return Fraction(0)
        before = clock.last
        if before is not None:
            clock.last = reached - _JITTER_S
        settled = clock.settle(run.start)
        if before is None:
            return Fraction(0)
        if settled is None:
            return run.start - self._shift - reached
        self._shift = run.start - settled
        gap = settled - reached
        return gap if gap > _JITTER_S else Fraction(0)

    def _clear_lone_times(self, runs: list[_Run]) -> None:
        """Clear the start of short runs that do not fit between their neighbours, if these fit each other."""
        for before, run, after in zip(runs, runs[1:], runs[2:], strict=False):
            if run.length >= _LONE_S or before.start is None or run.start is None or after.start is None:
                continue
            ends = before.start + before.length
            fits = ends - _JITTER_S <= run.start <= after.start + _JITTER_S
            if not fits and ends - _JITTER_S <= after.start:
                run.start = None
                self._n_lone += 1
        if len(runs) > 1 and runs[0].length < _LONE_S:
            first, second = runs[:2]
            if first.start is not None and second.start is not None and second.start < first.start:
                first.start = second.start - first.length
                self._n_lone += 1


def _raise_if_out_of_memory(error: Exception) -> None:
    """Raise the error if memory ran out; FFmpeg's errors of that kind may come from a damaged size field."""
    import av

    if isinstance(error, MemoryError) and not isinstance(error, av.error.FFmpegError):
        raise error
