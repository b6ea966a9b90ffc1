"""`livecc commentate`: words as the video plays, on standard output or in a file; all else on standard error."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_hf.cli.main import EXIT_INTERRUPTED
from livecc_hf.cli.pacing import LagMeter, RealTimeFeed
from livecc_hf.cli.status import Status, quiet_libraries, show_warnings
from livecc_hf.subtitles import FORMATS, Caption, CaptionWriter, clock, open_writer

if TYPE_CHECKING:
    from livecc_hf.modeling.video_reader_livecc import FrameChunk, VideoInfo

_REAL_MODEL = "chenjoya/LiveCC-7B-Instruct"
_SUFFIX_FORMATS = {".srt": "srt", ".vtt": "vtt", ".jsonl": "jsonl"}
# Arguments passed on to `start_stream` under the same name, where given.
_STREAM_OPTIONS = (
    *("query", "title", "previous", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty"),
    *("max_new_tokens", "silence_threshold", "seed", "min_pixels", "max_pixels"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("video", metavar="VIDEO", help="a video file")
    parser.add_argument(
        "--model",
        metavar="FOLDER_OR_HUB_ID",
        help="the model, or an adapter; default: the bundled livecc-tiny, a demonstration",
    )
    parser.add_argument("--query", help="what to comment on; default: the model's own")
    parser.add_argument("--title", help="the video's title")
    parser.add_argument("--previous", help="what was said before the start")
    parser.add_argument("--start", type=parse_time, metavar="TIME", help="where to start: seconds, or hh:mm:ss.s")
    parser.add_argument("--end", type=parse_time, metavar="TIME", help="where to stop")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--format", choices=FORMATS, help="form of the commentary; default: by the name of --output, else text"
    )
    output.add_argument(
        "--output", type=Path, metavar="FILE", help="write there; standard output then shows the commentary as text"
    )
    output.add_argument("--overlay", type=Path, metavar="OUT.mp4", help="also write a copy of the video with the words")
    output.add_argument("--overlay-font", type=Path, metavar="FILE", help="TrueType font of the overlay's letters")
    output.add_argument(
        "--realtime", action="store_true", help="keep to the clock as with a camera, skipping frames that come too late"
    )
    output.add_argument("--quiet", action="store_true", help="no messages, only commentary, warnings and errors")
    _add_model_arguments(parser.add_argument_group("model"))
    _add_generation_arguments(
        parser.add_argument_group(
            "generation", "defaults: the model's generation_config, then those of the live setting"
        )
    )


def _add_model_arguments(group: Any) -> None:
    group.add_argument("--base", metavar="FOLDER_OR_HUB_ID", help="an adapter's base, if not where the adapter says")
    group.add_argument("--device", help="such as cuda:0 or cpu; default: CUDA if there is any")
    group.add_argument("--dtype", help="such as bfloat16; default: float32 on CPU, the checkpoint's own elsewhere")
    group.add_argument("--load-in-4bit", action="store_true", help="quantise with bitsandbytes while loading")
    group.add_argument(
        "--position-scheme",
        choices=("mrope", "sequential", "reference"),
        help="how positions are counted; default: what the model says, or is taken to need",
    )
    group.add_argument("--min-pixels", type=int, metavar="N", help="fewest pixels of a resized frame")
    group.add_argument("--max-pixels", type=int, metavar="N", help="most pixels of a resized frame")


def _add_generation_arguments(group: Any) -> None:
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens in a turn")
    group.add_argument("--do-sample", action="store_true", default=None, help="sample the words")
    group.add_argument(
        "--greedy", dest="do_sample", action="store_false", default=None, help="always take the likeliest word"
    )
    group.add_argument("--temperature", type=float, metavar="X", help="sampling temperature")
    group.add_argument("--top-p", type=float, metavar="X", help="sample among the likeliest of this probability")
    group.add_argument("--top-k", type=int, metavar="N", help="sample among this many likeliest")
    group.add_argument("--repetition-penalty", type=float, metavar="X", help="1: none")
    group.add_argument("--silence-threshold", type=float, metavar="P", help="less probable silence is not chosen")
    group.add_argument("--seed", type=int, metavar="N", help="seed of the sampling")


def run(args: argparse.Namespace) -> int:
    """Comment on the video."""
    if not Path(args.video).exists():  # said before the seconds that imports take
        raise FileNotFoundError(f"no such file: {args.video}")
    from livecc_hf.modeling.stream_state_livecc import ContextFullError
    from livecc_hf.modeling.video_reader_livecc import VideoReadWarning
    from livecc_hf.overlay import OverlayWarning

    status = Status(quiet=args.quiet)
    with warnings.catch_warnings(), contextlib.closing(status):
        show_warnings(status, (VideoReadWarning, OverlayWarning), args.debug)
        info = _check(args)
        model, processor = _load(args, status)
        run_ = _Run(args, info, status)
        stopped_by: BaseException | None = None
        with _open_output(args) as writers:
            try:
                run_.comment(model, processor, writers)
            except KeyboardInterrupt as error:
                stopped_by = error
                status.line(f"interrupted at {clock(run_.reached_s)}: what was written is kept")
            except ContextFullError as error:
                stopped_by = error
        run_.report()
        if args.overlay:
            run_.write_overlay(complete=stopped_by is None)
        if isinstance(stopped_by, ContextFullError):
            raise stopped_by
        return EXIT_INTERRUPTED if stopped_by else 0


def _check(args: argparse.Namespace) -> VideoInfo:
    """Refuse what cannot work before the model is loaded."""
    from livecc_hf.caption_art import CaptionStyle
    from livecc_hf.modeling.video_reader_livecc import probe_video
    from livecc_hf.overlay import check_output

    info = probe_video(args.video)
    if args.end is not None and args.end <= (args.start or 0):
        raise ValueError(f"--end {args.end:g} is not after the start, {args.start or 0:g}: give a later end")
    length_s = info.duration_s and info.first_pts_s - info.clock_start_s + info.duration_s
    if length_s and (args.start or 0) > length_s + 1:  # headers may be off a little; the reader is exact
        raise ValueError(f"--start {args.start:g} lies past the end of {args.video}, at {length_s:.1f} s")
    if args.output is not None:
        if args.output.is_dir() or not args.output.parent.is_dir():
            raise ValueError(f"--output {args.output}: expected a file name in a folder that exists")
        if args.output.exists() and args.output.samefile(args.video):
            raise ValueError(f"--output {args.output} is the video itself: choose another name")
    if args.overlay is not None:
        check_output(args.video, args.overlay)
        CaptionStyle(font=args.overlay_font)
    return info


def _load(args: argparse.Namespace, status: Status) -> tuple[Any, Any]:
    from livecc_hf.assets import bundled_model_path
    from livecc_hf.loading import load_model_and_processor, read_config

    quiet_libraries(args.debug)
    name = args.model if args.model is not None else bundled_model_path()
    read_config(str(name), args.position_scheme, args.base)  # fails early, and in one line
    if args.model is None:
        status.line(
            "model: livecc-tiny, bundled. A demonstration: it knows moving coloured shapes and nothing else. "
            f"For real videos: --model {_REAL_MODEL}"
        )
    else:
        status.line(f"model: {name}")
    status.update("loading ...")
    model, processor, loaded = load_model_and_processor(
        name, args.device, args.dtype, args.load_in_4bit, args.position_scheme, args.base
    )
    status.clear()
    for note in loaded.notes:
        status.line(note)
    return model, processor


@contextlib.contextmanager
def _open_output(args: argparse.Namespace) -> Iterator[list[CaptionWriter]]:
    if args.output is None:
        yield [open_writer(args.format or "text", sys.stdout)]
        return
    format = args.format or _SUFFIX_FORMATS.get(args.output.suffix.lower(), "text")
    with args.output.open("w", encoding="utf-8", newline="\n") as file:
        writers = [open_writer(format, file)]
        yield writers if args.quiet else [*writers, open_writer("text", sys.stdout)]


@dataclass
class _Run:
    """One commentary: what came of it, for the report and the overlay.

    Times in `captions` are on the file's clock; what is shown and written counts from the file's start.
    """

    args: argparse.Namespace
    info: VideoInfo
    status: Status
    captions: list[Caption] = field(default_factory=list)
    lag: LagMeter = field(default_factory=LagMeter)
    skipped_frames: int = 0
    n_turns: int = 0
    seen_s: float = 0.0
    took_s: float = 0.0
    reached_s: float = 0.0

    @property
    def range_s(self) -> tuple[float | None, float | None]:
        """The start and end asked for, on the file's clock."""
        start, end = self.args.start, self.args.end
        origin = self.info.clock_start_s
        return (None if start is None else start + origin, None if end is None else end + origin)

    def comment(self, model: Any, processor: Any, writers: list[CaptionWriter]) -> None:
        """Show the model the video and write what it says as it says it."""
        from livecc_hf.modeling.grammar_livecc import TURN_FRAMES
        from livecc_hf.modeling.stream_state_livecc import ContextFullError
        from livecc_hf.modeling.video_reader_livecc import iter_chunks

        options = {name: value for name in _STREAM_OPTIONS if (value := getattr(self.args, name)) is not None}
        stream = model.start_stream(processor, **options)
        chunks = iter_chunks(self.args.video, *self.range_s, frames_per_chunk=TURN_FRAMES)
        feed = RealTimeFeed(chunks) if self.args.realtime else None
        began_s = time.monotonic()
        frames: Any = iter(feed or chunks)
        with contextlib.closing(frames) as shown:
            try:
                for chunk in shown:
                    segments = stream.push(chunk.frames, chunk.timestamps_s)
                    self._write(segments, writers)
                    if feed is not None:
                        self.skipped_frames = feed.skipped_frames
                        if segments:
                            self.lag.add(feed.lag_s(chunk.timestamps_s[-1]))
                    self._note_progress(chunk, time.monotonic() - began_s)
                self._write(stream.finish(), writers)
            except ContextFullError as error:
                self._write(error.segments, writers)
                raise
            finally:
                self.status.clear()
                self.took_s = time.monotonic() - began_s

    def report(self) -> None:
        """Say how it went."""
        if not self.n_turns:
            return
        n_spoken = sum(bool(caption.text) for caption in self.captions)
        speed = f"{self.seen_s:.1f} s of video in {self.took_s:.1f} s ({self.seen_s / self.took_s:.2f} x real time)"
        self.status.line(f"{speed}; {self.n_turns} turns, {n_spoken} with words")
        if self.args.realtime:
            lag = f"lag {self.lag.mean_s:.2f} s on average, {self.lag.max_s:.2f} s at most"
            self.status.line(f"{lag}; {self.skipped_frames} frames skipped")

    def write_overlay(self, complete: bool) -> None:
        """Write the copy with the words in it; up to the last turn if not `complete`."""
        from livecc_hf.caption_art import CaptionStyle
        from livecc_hf.overlay import OverlayWriter

        out = self.args.overlay
        if not complete and not self.captions:
            return
        style = CaptionStyle(font=self.args.overlay_font)
        writer = OverlayWriter(self.args.video, out, *self.range_s, style)
        try:
            for caption in self.captions:
                self.status.update(f"writing {out}: {clock(caption.end_s - self.info.clock_start_s)}")
                writer.write(caption)
        except BaseException:
            complete = False
            raise
        finally:
            writer.close(complete)
            self.status.clear()
        self.status.line(f"wrote {out}")

    def _write(self, segments: Any, writers: list[CaptionWriter]) -> None:
        origin_s = self.info.clock_start_s
        for segment in segments:
            self.n_turns += 1
            self.captions.append(Caption(segment.start_s, segment.end_s, segment.text))
            self.reached_s = segment.end_s - origin_s
            self.status.clear()
            for writer in writers:
                writer.write(Caption(segment.start_s - origin_s, segment.end_s - origin_s, segment.text))

    def _note_progress(self, chunk: FrameChunk, took_s: float) -> None:
        from livecc_hf.modeling.grammar_livecc import FRAME_STEP_S

        self.seen_s += len(chunk.timestamps_s) * FRAME_STEP_S
        text = clock(chunk.timestamps_s[-1] + FRAME_STEP_S - self.info.clock_start_s)
        if self.info.duration_s:
            text += f" of {clock(self.info.duration_s)}"
        text += f"  {self.seen_s / took_s:.2f} x real time"
        if self.args.realtime:
            text += f"  lag {self.lag.last_s:.1f} s  {self.skipped_frames} frames skipped"
        self.status.update(text)


def parse_time(text: str) -> float:
    """Seconds from `90`, `1:30`, `0:01:30.5`.

    Raises:
        argparse.ArgumentTypeError: if it is no time.
    """
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    is_time = 1 <= len(values) <= 3 and all(0 <= v < 60 for v in values[1:]) and all(v >= 0 for v in values)
    if not is_time or values[0] == float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time: expected seconds or hh:mm:ss, such as 90 or 1:30.5")
    return sum(value * 60**power for power, value in enumerate(reversed(values)))
