"""Comments on the events of LiveSports-3K CC, through the stream that `livecc commentate` uses."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from livecc_hf.modeling.grammar import CONTINUATION, split_turns
from livecc_hf.video.reader import iter_chunks, probe_video

from ..predictions.rows import CommentaryRow, SpokenSpan
from ..scorers.answers import LIVECC
from ..tasks.livesports_cc import INSTRUCT, SportsEvent, query_of
from ..tasks.questions import FrameRule
from .frames import ClipFrames, Resize, read_clip

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor
    from livecc_hf.modeling.stream import CommentarySegment, CommentaryStream

# The reference's scored runs; sampling was not set there, and is off here.
LIVECC_OPTIONS: dict[str, Any] = {
    "do_sample": False,
    "repetition_penalty": 1.15,
    "max_new_tokens": 32,
    "window": "none",
}
# The options of `livecc commentate`, without sampling.
LIVE_OPTIONS: dict[str, Any] = {"do_sample": False}


@dataclass(frozen=True)
class VideoSpan:
    """A part of a video to comment on.

    Attributes:
        path: the video.
        begin_s: where the part begins, in seconds as a player shows.
        end_s: where it ends.
        query: of the viewer.
    """

    path: str | os.PathLike
    begin_s: float | None
    end_s: float | None
    query: str


@dataclass(frozen=True)
class Said:
    """A commentary.

    Attributes:
        text: joined as in the protocol.
        turns: words with their times, on the video's clock.
        latencies_s: seconds from a turn's last frame to its words.
    """

    text: str
    turns: list[SpokenSpan]
    latencies_s: list[float]


@dataclass(frozen=True)
class Commentator:
    """A model that comments on events in one protocol.

    Attributes:
        model: in evaluation mode.
        processor: its processor.
        protocol: "livecc": frames spread over the clip, turns at their nominal times, the text joined as in the
            reference; "live": frames at their own times, as in `livecc commentate`.
        query_form: "instruct", or "base" for a model that was not trained on instructions.
        options: of `start_stream`; override the protocol's.
    """

    model: LiveCCForConditionalGeneration
    processor: StreamingProcessor
    protocol: str = LIVECC
    query_form: str = INSTRUCT
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return the stream's options."""
        return (LIVECC_OPTIONS if self.protocol == LIVECC else LIVE_OPTIONS) | self.options

    def comment(self, event: SportsEvent, path: str | os.PathLike, rule: FrameRule) -> CommentaryRow:
        """Return the commentary on an event.

        Args:
            event: with its span in the video, title and previous text.
            path: the video.
            rule: of frames, in protocol "livecc".

        Raises:
            VideoReadError: (a ValueError) if the video cannot be read.
            ContextFullError: if it does not fit into the model's context.
            RuntimeError: if the model's scores are not finite.
        """
        began_s = time.perf_counter()
        clip = VideoSpan(path, event.row.begin_s, event.row.end_s, query_of(event, self.query_form))
        said = self.comment_clip(clip, rule)
        return replace(
            event.row,
            pred=said.text,
            turns=said.turns,
            latencies_s=[round(value, 4) for value in said.latencies_s],
            work_s=round(time.perf_counter() - began_s, 4),
        )

    def comment_clip(self, clip: VideoSpan, rule: FrameRule) -> Said:
        """Return the commentary on a clip; raises as `comment` does."""
        spreads = self.protocol == LIVECC
        segments, latencies_s = (self._spread if spreads else self._live)(clip, rule)
        shift_s = (clip.begin_s or 0.0) if spreads else 0.0
        turns = [SpokenSpan(item.start_s + shift_s, item.end_s + shift_s, item.text) for item in segments]
        text = join_as_published(segments) if spreads else " ".join(turn.text for turn in turns if turn.text)
        return Said(text, turns, latencies_s)

    def _start(self, clip: VideoSpan, **others: Any) -> CommentaryStream:
        return self.model.start_stream(self.processor, **{"query": clip.query} | self.settings() | others)

    def _spread(self, clip: VideoSpan, rule: FrameRule) -> tuple[list[CommentarySegment], list[float]]:
        """Stream frames that are spread over the clip, with nominal times from 0 on."""
        frames = read_for(self.processor, clip.path, clip.begin_s, clip.end_s, rule).frames
        stream = self._start(clip, do_resize=False)
        segments, latencies_s = [], []
        for span in split_turns(len(frames), self.processor.find_grammar()):
            shown_s = time.perf_counter()
            segments += stream.push(frames[span.first_frame : span.first_frame + span.n_frames])
            latencies_s.append(time.perf_counter() - shown_s)
        return segments + stream.finish(), latencies_s

    def _live(self, clip: VideoSpan, rule: FrameRule) -> tuple[list[CommentarySegment], list[float]]:
        """Stream frames at their own times."""
        stream = self._start(clip, **({} if rule.max_pixels is None else {"max_pixels": rule.max_pixels}))
        origin_s = probe_video(clip.path).clock_start_s
        segments, latencies_s = [], []
        for chunk in iter_chunks(clip.path, clip.begin_s, clip.end_s, origin_s=origin_s):
            shown_s = time.perf_counter()
            said = stream.push(chunk.frames, chunk.timestamps_s)
            if said:
                latencies_s.append(time.perf_counter() - shown_s)
            segments += said
        shown_s = time.perf_counter()
        if said := stream.finish():
            latencies_s.append(time.perf_counter() - shown_s)
        return segments + said, latencies_s


def join_as_published(segments: list[CommentarySegment]) -> str:
    """Return a commentary joined as in the reference: silent turns leave their spaces, and "..." ends it."""
    return " ".join(segment.text.replace(CONTINUATION, "") for segment in segments).strip() + "..."


def read_for(
    processor: StreamingProcessor,
    path: str | os.PathLike,
    start_s: float | None,
    end_s: float | None,
    rule: FrameRule,
) -> ClipFrames:
    """Read the frames of a clip with `read_clip`, in the input size of a processor's model."""
    return read_clip(path, start_s, end_s, rule, resizer(processor), processor.video_processor.pixels_per_token)


def resizer(processor: StreamingProcessor) -> Resize:
    """Return a function that resizes frames to the model's input size."""
    return lambda frames, max_pixels: processor.video_processor.resized(frames, max_pixels=max_pixels)
