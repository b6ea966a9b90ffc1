"""Runs `livecc commentate` on one video: pushes its frames, writes the words, and reports."""

from __future__ import annotations

import argparse
import contextlib
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from livecc_hf.captions.writers import Caption, CaptionWriter, clock
from livecc_hf.cli.commentate_plan import Job
from livecc_hf.cli.status import Status
from livecc_hf.cli.stream_arguments import stream_options_of
from livecc_hf.modeling.grammar import FRAME_STEP_S
from livecc_hf.utils.disk import writing
from livecc_hf.utils.text import counted

if TYPE_CHECKING:
    from livecc_hf.modeling import CommentarySegment, LiveCCForConditionalGeneration, StreamingProcessor
    from livecc_hf.sources import Source
    from livecc_hf.video.reader import FrameChunk, VideoInfo


@dataclass
class Run:
    """The commentary on one video, with the numbers for its report.

    Attributes:
        captions: the words so far, with the source's times; for the overlay.
        skipped_before: frames skipped before the model was ready, which do not count.
        n_turns: number of turns.
        seen_s: seconds of video that the model has seen.
        took_s: duration of the run, in seconds.
        reached_s: end of the last turn, in seconds as they are shown.
        origin_s: the source's time that is shown and written as 0: 0 for a file, whose times are a player's; for a
            stream, the first frame that the model saw; `None` before that.
    """

    job: Job
    args: argparse.Namespace
    info: VideoInfo | None
    source: Source
    status: Status
    captions: list[Caption] = field(default_factory=list)
    skipped_before: int = 0
    n_turns: int = 0
    seen_s: float = 0.0
    took_s: float = 0.0
    reached_s: float = 0.0
    origin_s: float | None = None

    def __post_init__(self) -> None:
        if self.info is not None or self.args.start is not None:
            self.origin_s = 0.0

    @property
    def skipped_frames(self) -> int:
        """Number of frames that the model was too slow for."""
        return self.source.stats.skipped_frames - self.skipped_before

    def comment(
        self, model: LiveCCForConditionalGeneration, processor: StreamingProcessor, writers: list[CaptionWriter]
    ) -> None:
        """Push the video's frames to the model, and write its words as they come."""
        from livecc_hf.modeling.context import ContextFullError
        from livecc_hf.sources import SourceLostError

        options = stream_options_of(self.args)
        stream = model.start_stream(processor, **options)
        if model.device.type == "cuda":
            self.status.update("warming up ...")
            stream.warm_up()
        began_s = time.monotonic()
        with contextlib.closing(iter(self.source)) as shown:
            try:
                for chunk in shown:
                    if self.origin_s is None:  # frames skipped while the model was loaded do not count
                        self.origin_s = chunk.timestamps_s[0]
                        self.skipped_before = self.source.stats.skipped_frames
                    segments = stream.push(chunk.frames, chunk.timestamps_s)
                    self._write(segments, writers)
                    if segments:
                        self.source.note_lag(chunk)
                    self._note_progress(chunk, time.monotonic() - began_s)
                self._write(stream.finish(), writers)
            except ContextFullError as error:
                self._write(error.segments, writers)
                raise
            except SourceLostError:
                self._write(stream.finish(), writers)
                raise
            finally:
                self.status.clear()
                self.took_s = time.monotonic() - began_s

    def report(self) -> None:
        """Print a summary of the run."""
        if not self.n_turns:
            return
        n_spoken = sum(bool(caption.text) for caption in self.captions)
        speed = f"{self.seen_s:.1f} s of video in {self.took_s:.1f} s ({self.seen_s / self.took_s:.2f} x real time)"
        self.status.line(f"{speed}; {counted(self.n_turns, 'turn')}, {n_spoken} with words")
        if self.source.is_paced:
            lag, stats = self.source.lag, self.source.stats
            counts = [f"{counted(self.skipped_frames, 'frame')} skipped"]
            for number, one, more in (
                (stats.n_reconnects, "reconnection", "reconnections"),
                (stats.n_time_jumps, "jump of the sender's clock", "jumps of the sender's clock"),
                (stats.n_damaged, "damaged frame or packet", "damaged frames or packets"),
                (stats.n_undecoded, "frame not decoded in time", "frames not decoded in time"),
            ):
                counts += [counted(number, one, more)] if number else []
            self.status.line(f"lag {lag.mean_s:.2f} s on average, {lag.max_s:.2f} s at most; {', '.join(counts)}")

    def write_overlay(self, complete: bool) -> None:
        """Write a copy of the video with the words burnt in; if not `complete`, up to the last turn."""
        from livecc_hf.rendering.caption_painter import CaptionStyle
        from livecc_hf.rendering.overlay import OverlayWriter
        from livecc_hf.video.reader import VideoReadWarning

        out = self.job.overlay
        if out is None or not (complete or self.captions):
            return
        style = CaptionStyle(font=self.args.overlay_font)
        with writing(out), warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoReadWarning)  # shown before, when the model read the same file
            writer = OverlayWriter(self.job.video, out, self.args.start, self.args.end, style, self.args.max_gap)
            try:
                for caption in self.captions:
                    self.status.update(f"writing {out}: {clock(caption.end_s - (self.origin_s or 0.0))}")
                    writer.write(caption)
            except BaseException as error:
                complete = False
                if isinstance(error, KeyboardInterrupt):
                    self.status.warn(f"{out} is incomplete: it was interrupted while it was written")
                raise
            finally:
                writer.close(complete)
                self.status.clear()
        self.status.line(f"wrote {out}")

    def _write(self, segments: Iterable[CommentarySegment], writers: list[CaptionWriter]) -> None:
        origin_s = self.origin_s or 0.0
        for segment in segments:
            self.n_turns += 1
            self.captions.append(Caption(segment.start_s, segment.end_s, segment.text))
            self.reached_s = segment.end_s - origin_s
            self.status.clear()
            for writer in writers:
                writer.write(Caption(segment.start_s - origin_s, segment.end_s - origin_s, segment.text))

    def _note_progress(self, chunk: FrameChunk, took_s: float) -> None:
        self.seen_s += len(chunk.timestamps_s) * FRAME_STEP_S
        text = clock(chunk.timestamps_s[-1] + FRAME_STEP_S - (self.origin_s or 0.0))
        if self.info is not None and self.info.duration_s:
            text += f" of {clock(min(self.info.duration_s, self.args.end or self.info.duration_s))}"
        text += f"  {self.seen_s / took_s:.2f} x real time"
        if self.source.is_paced:
            text += f"  lag {self.source.lag.last_s:.1f} s  {self.skipped_frames} frames skipped"
        self.status.update(text)
