"""Comments on the events of LiveSports-3K CC, through the stream that `livecc commentate` uses."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from livecc_hf.modeling.grammar_livecc import CONTINUATION, split_turns
from livecc_hf.modeling.video_file_livecc import probe_video
from livecc_hf.modeling.video_reader_livecc import iter_chunks

from ..predictions.rows import CommentaryRow, Span
from ..scorers.answers import LIVECC
from ..tasks.livesports_cc import INSTRUCT, Event, query_of
from ..tasks.questions import FrameRule
from .frames import Resize, read_clip

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor
    from livecc_hf.modeling.streaming_livecc import CommentarySegment, CommentaryStream

# The reference's scored runs; sampling was not set there, and is off here.
LIVECC_OPTIONS: dict[str, Any] = {
    "do_sample": False,
    "repetition_penalty": 1.15,
    "max_new_tokens": 32,
    "window": "none",
}
# What `livecc commentate` does, but for the dice.
LIVE_OPTIONS: dict[str, Any] = {"do_sample": False}


@dataclass(frozen=True)
class Commentator:
    """A model that comments on events in one protocol.

    Attributes:
        model: in evaluation mode.
        processor: its processor.
        protocol: "livecc": frames spread over the clip, turns at their nominal times, the text as the reference puts it
            together; "live": frames at their own times, as in `livecc commentate`.
        query_form: "instruct", or "base" for a model that was not trained on instructions.
        options: of `start_stream`, laid over the protocol's.
    """

    model: LiveCCForConditionalGeneration
    processor: StreamingProcessor
    protocol: str = LIVECC
    query_form: str = INSTRUCT
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return the stream's options."""
        return (LIVECC_OPTIONS if self.protocol == LIVECC else LIVE_OPTIONS) | self.options

    def comment(self, event: Event, path: str | os.PathLike, rule: FrameRule) -> CommentaryRow:
        """Return the commentary on an event.

        Args:
            event: where it is in the video, and what is known of it.
            path: the video.
            rule: in protocol "livecc": which frames.

        Raises:
            VideoReadError: (a ValueError) if the video cannot be read.
            ContextFullError: if it does not fit into the model's context.
            RuntimeError: if the model's scores are not finite.
        """
        began_s = time.perf_counter()
        say = self._spread if self.protocol == LIVECC else self._live
        segments, latencies_s, shift_s = say(event, path, rule)
        turns = [Span(item.start_s + shift_s, item.end_s + shift_s, item.text) for item in segments]
        return replace(
            event.row,
            pred=assembled(segments) if self.protocol == LIVECC else " ".join(t.text for t in turns if t.text),
            turns=turns,
            latencies_s=[round(value, 4) for value in latencies_s],
            work_s=round(time.perf_counter() - began_s, 4),
        )

    def _start(self, event: Event, **others: Any) -> CommentaryStream:
        options = {"query": query_of(event, self.query_form)} | self.settings() | others
        return self.model.start_stream(self.processor, **options)

    def _spread(self, event: Event, path: str | os.PathLike, rule: FrameRule):
        """Show frames that are spread over the clip; their nominal times begin at 0."""
        clip = read_clip(path, event.row.begin_s, event.row.end_s, rule, resizer(self.processor))
        stream = self._start(event, do_resize=False)
        segments, latencies_s = [], []
        for span in split_turns(len(clip.frames)):
            shown_s = time.perf_counter()
            segments += stream.push(clip.frames[span.first_frame : span.first_frame + span.n_frames])
            latencies_s.append(time.perf_counter() - shown_s)
        segments += stream.finish()
        return segments, latencies_s, event.row.begin_s

    def _live(self, event: Event, path: str | os.PathLike, rule: FrameRule):
        """Show frames at their own times."""
        stream = self._start(event, **({} if rule.max_pixels is None else {"max_pixels": rule.max_pixels}))
        origin_s = probe_video(path).clock_start_s
        segments, latencies_s = [], []
        for chunk in iter_chunks(path, event.row.begin_s, event.row.end_s, origin_s=origin_s):
            shown_s = time.perf_counter()
            said = stream.push(chunk.frames, chunk.timestamps_s)
            if said:
                latencies_s.append(time.perf_counter() - shown_s)
            segments += said
        shown_s = time.perf_counter()
        if said := stream.finish():
            latencies_s.append(time.perf_counter() - shown_s)
        return segments + said, latencies_s, 0.0


def assembled(segments: list[CommentarySegment]) -> str:
    """Return a commentary as the reference puts it together: silent turns leave their spaces, and "..." ends it."""
    return " ".join(segment.text.replace(CONTINUATION, "") for segment in segments).strip() + "..."


def resizer(processor: StreamingProcessor) -> Resize:
    """Return what gives frames the size in which the model sees them."""
    return lambda frames, max_pixels: processor.video_processor.resized(frames, max_pixels=max_pixels)
