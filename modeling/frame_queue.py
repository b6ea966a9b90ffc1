"""The waiting frames of a stream, and the time span of the turn they will make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .frames import PreparedFrames, as_tensor, resize_to
from .grammar import FIRST_TURN_FRAMES, FRAME_STEP_S, PIXELS_PER_TOKEN, TURN_FRAMES
from .stream_options import LIVE_MAX_PIXELS, StreamOptions
from .video_processing_livecc import LiveCCVideoProcessor, resize_limits

TURN_S = TURN_FRAMES * FRAME_STEP_S


class FrameQueue:
    """Waiting frames at 2 per second, resized when they are added.

    Args:
        video_processor: a :class:`LiveCCVideoProcessor`.
        options: the stream's options; without `max_pixels`, the limit of live streams applies.
        first_turn_frames: number of frames of the first turn.

    Raises:
        ValueError: if the pixel limits contradict each other.

    Attributes:
        max_pixels: most pixels of a resized frame.
        n_turns: number of turns taken.
        clock_start_s: time of the first frame in seconds; `None` without timestamps.
    """

    def __init__(
        self,
        video_processor: LiveCCVideoProcessor,
        options: StreamOptions,
        first_turn_frames: int = FIRST_TURN_FRAMES,
    ):
        self._video_processor, self._options = video_processor, options
        self._first_turn_frames = first_turn_frames
        live = LIVE_MAX_PIXELS * video_processor.pixels_per_token // PIXELS_PER_TOKEN
        most = max(min(live, resize_limits(video_processor).longest_edge), options.min_pixels or 0)
        self.max_pixels = options.max_pixels or most
        resize_limits(video_processor, options.min_pixels, self.max_pixels)  # checks them
        self.n_turns = 0
        self.clock_start_s: float | None = None
        self._next_start_s = 0.0  # end of the last turn, from the stream's start
        self._last_time_s: float | None = None
        self._frames: list[torch.Tensor] = []  # each (3, H, W), resized
        self._times_s: list[float | None] = []
        self._size_px = 0, 0  # (H, W) before resizing

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def turn_frames(self) -> int:
        """Number of frames of the next turn."""
        return self._first_turn_frames if self.n_turns == 0 else TURN_FRAMES

    def n_ready(self, is_last: bool = False) -> int:
        """Return how many waiting frames the next turn takes: 0 if too few wait, unless `is_last`."""
        n_waiting = len(self._frames)
        return self.turn_frames if n_waiting >= self.turn_frames else n_waiting * is_last

    @property
    def next_span_s(self) -> tuple[float, float]:
        """Start and end of the next turn, in seconds from the stream's start; the first turn is at 0."""
        start_s = self._next_start_s + (self._gap_s if self.n_turns else 0)
        return start_s, start_s + self.turn_frames * FRAME_STEP_S

    @property
    def _gap_s(self) -> float:
        """How much later than expected the next turn's newest frame is, to which its words belong, in whole turns."""
        n_frames = self.n_ready(is_last=True)
        time_s = self._times_s[n_frames - 1] if n_frames else None
        if time_s is None or self.clock_start_s is None:
            return 0.0
        gap_s = time_s - self.clock_start_s - self._next_start_s - (n_frames - 1) * FRAME_STEP_S
        # Whole turns only: the model was trained on labels such as 3.0-4.0, never 3.5-4.5.
        return max(int(gap_s / TURN_S + 1e-6), 0) * TURN_S

    @property
    def end_s(self) -> float:
        """End of the last turn taken, in seconds from the stream's start."""
        return self._next_start_s

    def add(self, frames: Any, timestamps_s: Sequence[float] | None) -> None:
        """Add frames; arguments and errors as in `CommentaryStream.push`."""
        pixels, size_px = self._prepared(frames)
        if size_px != self._size_px and self._n_incomplete:
            raise ValueError(
                f"frames are {size_px[1]}x{size_px[0]} pixels, but the waiting frames of the same turn are "
                f"{self._size_px[1]}x{self._size_px[0]}: sizes may change between turns only"
            )
        clock_start_s, times_s = self._checked_times(timestamps_s, len(pixels))
        if self._frames:
            if size_px == self._size_px and pixels.shape[1:] != self._frames[-1].shape:
                raise ValueError("these frames were prepared by a stream with other pixel limits: prepare them here")
            pixels = pixels.to(self._frames[0].device)
        self._size_px = size_px
        self._frames += pixels.unbind()
        self._times_s += times_s
        self.clock_start_s, self._last_time_s = clock_start_s, times_s[-1]

    @property
    def _n_incomplete(self) -> int:
        """Number of waiting frames of the last turn, if it is incomplete."""
        n_later = len(self._frames) - self.turn_frames
        return len(self._frames) if n_later < 0 else n_later % TURN_FRAMES

    def prepare(self, frames: Any) -> PreparedFrames:
        """Return frames resized for the model; :meth:`add` does not resize these again.

        Resizing twice could change the size again, if no multiple of the patch size lies between the pixel limits.

        Raises:
            ValueError: if the frames are invalid.
        """
        return frames if isinstance(frames, PreparedFrames) else PreparedFrames(*self._prepared(frames))

    def _prepared(self, frames: Any) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return frames (T, 3, H, W) resized for the model, and their (H, W) before resizing."""
        frames = as_tensor(frames)
        is_prepared = isinstance(frames, PreparedFrames)
        pixels = frames.pixels if is_prepared else frames
        self._video_processor.check_frames(pixels, self._options.do_resize and not is_prepared)
        if len(pixels) == 0:
            raise ValueError("the push is empty (T = 0): expected at least one frame")
        if is_prepared:
            return pixels, frames.source_px
        options = self._options
        resized = self._video_processor.resized(pixels, options.min_pixels, self.max_pixels, options.do_resize)
        if resized.data_ptr() == pixels.data_ptr():
            resized = resized.clone()  # the caller may reuse its memory for the next frame
        return resized, (pixels.shape[2], pixels.shape[3])

    def peek(self, n_frames: int) -> torch.Tensor:
        """Return the first `n_frames` waiting frames (T, 3, H, W); an odd count repeats the last one."""
        frames = self._frames[:n_frames]
        size_px = frames[-1].shape[1:]
        if any(frame.shape[1:] != size_px for frame in frames):
            # Dropped frames put two sizes into the first turn, which is longer than the turns that were dropped.
            frames = [resize_to(frame, size_px) for frame in frames]
        return torch.stack(frames + frames[-1:] * (n_frames % TURN_FRAMES))

    def take(self, n_frames: int) -> None:
        """Remove the first `n_frames` waiting frames, as the next turn."""
        if self.n_turns == 0 and self.clock_start_s is not None:
            self.clock_start_s += self._gap_s  # the stream starts with its first turn
        _, self._next_start_s = self.next_span_s
        self.n_turns += 1
        self.drop(n_frames)

    def drop(self, n_frames: int, behind: int = 0) -> int:
        """Drop waiting frames; if frames have timestamps, the next turn's time span skips the dropped ones.

        Args:
            n_frames: how many to drop.
            behind: how many frames to keep before them, such as those of a turn that is being generated.

        Returns:
            `n_frames`.
        """
        del self._frames[behind : behind + n_frames], self._times_s[behind : behind + n_frames]
        if self.n_turns == 0:  # the model has seen nothing yet: the stream starts at the frames that are left
            self.clock_start_s = self._times_s[0] if self._frames else None
        return n_frames

    def _checked_times(
        self, timestamps_s: Sequence[float] | None, n_frames: int
    ) -> tuple[float | None, Sequence[float | None]]:
        """Check timestamps against the earlier ones; return the time of the stream's first frame, and one per frame."""
        if self.n_turns + len(self._frames) and (timestamps_s is None) != (self._last_time_s is None):
            raise ValueError("timestamps_s was given for some pushes only: give it always or never in one stream")
        if timestamps_s is None:
            return None, [None] * n_frames
        times_s = _seconds(timestamps_s)
        if len(times_s) != n_frames:
            raise ValueError(f"got {n_frames} frames but {len(times_s)} timestamps: expected one for each frame")
        clock_start_s = times_s[0] if self.clock_start_s is None else self.clock_start_s
        expected_s = clock_start_s + self._next_start_s + len(self._frames) * FRAME_STEP_S
        before_s = self._last_time_s
        for n, time_s in enumerate(times_s):
            if not math.isfinite(time_s):
                raise ValueError(f"timestamp {n} is {time_s}: expected seconds as a finite number")
            if before_s is not None and time_s < before_s:
                raise ValueError(f"timestamps go back from {before_s} s to {time_s} s: expected them in order")
            if time_s < expected_s + n * FRAME_STEP_S - TURN_S:
                raise ValueError(
                    f"frames come faster than 2 per second: one at {time_s} s, expected at about "
                    f"{expected_s + n * FRAME_STEP_S} s or later; take every n-th frame"
                )
            before_s = time_s
        return clock_start_s, times_s


def _seconds(timestamps_s: Sequence[float]) -> list[float]:
    try:
        return [float(t) for t in timestamps_s]
    except (TypeError, ValueError):
        raise ValueError(f"timestamps_s={timestamps_s!r:.80}: expected a number of seconds for each frame") from None
