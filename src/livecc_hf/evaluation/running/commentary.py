"""Comments on the events of LiveSports-3K CC with the stream of `livecc commentate`."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from livecc_hf.captions.turns import split_turns
from livecc_hf.modeling.grammar import CONTINUATION
from livecc_hf.video.reader import iter_chunks, probe_video

from ..predictions.rows import CommentaryRow, SpokenSpan
from ..scorers.answers import LIVECC
from ..tasks.livesports_cc import INSTRUCT, SportsEvent, query_of
from ..tasks.questions import FrameRule
from .frames import ClipFrames, Resize, sample_clip

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor
    from livecc_hf.modeling.stream import CommentarySegment, CommentaryStream

# Options of the reference's scored runs. They did not set sampling; it is off here.
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
        path: the video file.
        begin_s: start of the part in seconds, as a player shows; `None` for the start of the video.
        end_s: end of the part in seconds; `None` for the end of the video.
        query: the query for the model.
    """

    path: str | os.PathLike
    begin_s: float | None
    end_s: float | None
    query: str


@dataclass(frozen=True)
class Said:
    """A commentary on a part of a video.

    Attributes:
        text: the whole text, joined as the protocol does.
        turns: the words of each turn, with times in the video.
        latencies_s: seconds from each turn's last frame to its words.
    """

    text: str
    turns: list[SpokenSpan]
    latencies_s: list[float]


@dataclass(frozen=True)
class Commentator:
    """A model that comments on events by one protocol.

    Attributes:
        model: the model, in evaluation mode.
        processor: the model's processor.
        protocol: "livecc" (frames sampled uniformly from the clip, turns at their nominal times, text joined as in the
            reference) or "live" (frames at their own times, as in `livecc commentate`).
        query_form: "instruct", or "base" for a model that was not trained on instructions.
        options: options of `start_stream` that override the protocol's.
    """

    model: LiveCCForConditionalGeneration
    processor: StreamingProcessor
    protocol: str = LIVECC
    query_form: str = INSTRUCT
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return the options of the stream."""
        return (LIVECC_OPTIONS if self.protocol == LIVECC else LIVE_OPTIONS) | self.options

    def comment(self, event: SportsEvent, path: str | os.PathLike, rule: FrameRule) -> CommentaryRow:
        """Return the commentary on an event.

        Args:
            event: the event, with its span in the video, title and previous text.
            path: the video file.
            rule: how frames are sampled; in protocol "live", only its `max_pixels` is used.

        Raises:
            VideoReadError: (a ValueError) if the video cannot be read.
            ContextFullError: if the clip does not fit into the model's context.
            RuntimeError: if the model's logits are not finite.
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
        """Return the commentary on a part of a video; see `comment` for `rule` and the errors."""
        if self.protocol == LIVECC:
            segments, latencies_s = self._stream_uniform(clip, rule)
            shift_s, text = clip.begin_s or 0.0, join_as_published(segments)
        else:
            segments, latencies_s = self._stream_live(clip, rule)
            shift_s, text = 0.0, " ".join(segment.text for segment in segments if segment.text)
        turns = [SpokenSpan(item.start_s + shift_s, item.end_s + shift_s, item.text) for item in segments]
        return Said(text, turns, latencies_s)

    def _start(self, clip: VideoSpan, **others: Any) -> CommentaryStream:
        return self.model.start_stream(self.processor, **{"query": clip.query} | self.settings() | others)

    def _stream_uniform(self, clip: VideoSpan, rule: FrameRule) -> tuple[list[CommentarySegment], list[float]]:
        """Stream frames sampled uniformly from the clip, with nominal times from 0; return segments and latencies."""
        frames = read_for(self.processor, clip.path, clip.begin_s, clip.end_s, rule).frames
        stream = self._start(clip, do_resize=False)
        segments, latencies_s = [], []
        for span in split_turns(len(frames), self.processor.find_grammar()):
            shown_s = time.perf_counter()
            segments += stream.push(frames[span.first_frame : span.first_frame + span.n_frames])
            latencies_s.append(time.perf_counter() - shown_s)
        return segments + stream.finish(), latencies_s

    def _stream_live(self, clip: VideoSpan, rule: FrameRule) -> tuple[list[CommentarySegment], list[float]]:
        """Stream frames at their own times; return segments and latencies."""
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
    """Return the text as the reference joins it: silent turns leave their spaces, and "..." is appended."""
    return " ".join(segment.text.replace(CONTINUATION, "") for segment in segments).strip() + "..."


def read_for(
    processor: StreamingProcessor,
    path: str | os.PathLike,
    start_s: float | None,
    end_s: float | None,
    rule: FrameRule,
) -> ClipFrames:
    """Read the frames of a clip in the input size of a processor's model; arguments and errors as in `sample_clip`."""
    return sample_clip(path, start_s, end_s, rule, resizer(processor), processor.video_processor.pixels_per_token)


def resizer(processor: StreamingProcessor) -> Resize:
    """Return a function that resizes frames to the model's input size."""
    return lambda frames, max_pixels: processor.video_processor.resized(frames, max_pixels=max_pixels)
