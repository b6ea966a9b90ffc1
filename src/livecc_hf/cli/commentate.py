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

from livecc_hf.captions.writers import FORMATS, Caption, CaptionWriter, clock, open_writer
from livecc_hf.cli.main import EXIT_INTERRUPTED
from livecc_hf.cli.model_arguments import (
    add_generation_arguments,
    add_model_arguments,
    load_model_of,
    stream_options_of,
    whole_text,
)
from livecc_hf.cli.status import Status, show_warnings
from livecc_hf.loading import check_model_name
from livecc_hf.sources.early_check import check_is_video
from livecc_hf.sources.spec import RTSP_TRANSPORTS, parse_spec, redact

if TYPE_CHECKING:
    from livecc_hf.modeling.video_reader_livecc import FrameChunk, VideoInfo
    from livecc_hf.sources import Source

_SUFFIX_FORMATS = {".srt": "srt", ".vtt": "vtt", ".jsonl": "jsonl"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "video",
        metavar="VIDEO",
        help="a video file, a camera (camera:0, /dev/video0), an address (rtsp, rtmp, http, https, tcp, udp, ...) "
        "or - for standard input",
    )
    parser.add_argument("--title", type=whole_text, help="the video's title")
    parser.add_argument("--previous", type=whole_text, help="what was said before the start")
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
    _add_source_arguments(
        parser.add_argument_group("live sources", "how cameras, addresses and standard input are read")
    )
    add_model_arguments(parser.add_argument_group("model"))
    add_generation_arguments(
        parser.add_argument_group(
            "generation", "defaults: the model's generation_config, then those of the live setting"
        )
    )


def _add_source_arguments(group: Any) -> None:
    kind = group.add_mutually_exclusive_group()
    kind.add_argument(
        "--live",
        action="store_true",
        default=None,
        help="read VIDEO as live: newest frames first; default: by its name",
    )
    kind.add_argument(
        "--file",
        dest="live",
        action="store_false",
        default=None,
        help="read VIDEO as a recording: every frame counts, however long it takes",
    )
    group.add_argument(
        "--stall-timeout",
        type=parse_time,
        metavar="TIME",
        help="without a frame for so long, connect again; default: 10",
    )
    group.add_argument(
        "--reconnects", type=int, metavar="N", help="attempts to connect again before giving up; default: 8; 0: none"
    )
    group.add_argument(
        "--rtsp-transport", choices=RTSP_TRANSPORTS, default="auto", help="default: TCP where the server offers it"
    )
    group.add_argument(
        "--no-verify-tls",
        dest="verify_tls",
        action="store_false",
        help="accept any certificate of an https, rtsps or rtmps server, such as a camera's own",
    )


def run(args: argparse.Namespace) -> int:
    """Comment on the video."""
    # Said before the seconds that the other imports take.
    is_file = parse_spec(args.video, args.live, args.rtsp_transport).kind == "file"
    _check_output(args, is_file)
    if is_file:
        check_is_video(args.video)
    if args.model is not None:
        check_model_name(args.model)
    from livecc_hf.modeling.stream_state_livecc import ContextFullError
    from livecc_hf.modeling.video_reader_livecc import VideoReadWarning
    from livecc_hf.overlay import OverlayWarning
    from livecc_hf.sources import SourceLostError

    status = Status(quiet=args.quiet)
    with warnings.catch_warnings(), contextlib.closing(status):
        show_warnings(status, (VideoReadWarning, OverlayWarning), args.debug)
        info = _check_file(args) if is_file else None
        with _open(args, status) as source:
            if args.video != "-":  # what waits in a pipe is kept until the model is loaded
                source.wait_ready()
            model, processor = load_model_of(args, status)
            run_ = _Run(args, info, source, status)
            stopped_by: BaseException | None = None
            with _open_output(args) as writers:
                try:
                    run_.comment(model, processor, writers)
                except KeyboardInterrupt as error:
                    stopped_by = error
                    status.line(f"interrupted at {clock(run_.reached_s)}: what was written is kept")
                except (ContextFullError, SourceLostError) as error:
                    stopped_by = error
        if not is_file and stopped_by is None:
            status.line(f"{source.name}: the stream has ended")
        run_.report()
        if args.overlay:
            run_.write_overlay(complete=stopped_by is None)
        if isinstance(stopped_by, ContextFullError | SourceLostError):
            raise stopped_by
        return EXIT_INTERRUPTED if stopped_by else 0


def _check_output(args: argparse.Namespace, is_file: bool) -> None:
    """Refuse output that cannot be written before anything is opened."""
    if args.end is not None and args.end <= (args.start or 0):
        raise ValueError(f"--end {args.end:g} is not after the start, {args.start or 0:g}: give a later end")
    given = [name for name in ("start", "end", "overlay") if not is_file and getattr(args, name) is not None]
    if given:
        options = " and ".join(f"--{name}" for name in given)
        raise ValueError(f"{options}: for video files only, and {redact(args.video)} is read as a stream; leave it out")
    if args.output is not None:
        if args.output.is_dir() or not args.output.parent.is_dir():
            raise ValueError(f"--output {args.output}: expected a file name in a folder that exists")
        if is_file and args.output.exists() and args.output.samefile(args.video):
            raise ValueError(f"--output {args.output} is the video itself: choose another name")


def _check_file(args: argparse.Namespace) -> VideoInfo:
    """Refuse what cannot work with this file before the model is loaded."""
    from livecc_hf.caption_art import CaptionStyle
    from livecc_hf.modeling.video_reader_livecc import measure_duration, probe_video
    from livecc_hf.overlay import check_output

    info = probe_video(args.video)
    by_header_s = 0.0 if info.duration_s is None else info.first_pts_s - info.clock_start_s + info.duration_s
    # Headers give estimates: only where the packets end is an end.
    if args.start and args.start >= by_header_s and args.start >= (length_s := measure_duration(args.video)):
        raise ValueError(f"--start {args.start:g} lies past the end of {args.video}, at {length_s:.1f} s")
    if args.overlay is not None:
        check_output(args.video, args.overlay)
        CaptionStyle(font=args.overlay_font)
    return info


def _open(args: argparse.Namespace, status: Status) -> Source:
    from livecc_hf.sources import open_source

    options: dict[str, Any] = {"realtime": args.realtime, "live": args.live, "rtsp_transport": args.rtsp_transport}
    options["verify_tls"] = args.verify_tls
    if args.stall_timeout is not None:
        options["stall_s"] = args.stall_timeout
    if args.reconnects is not None:
        options["max_reconnects"] = args.reconnects
    for name in ("start", "end"):
        if (value := getattr(args, name)) is not None:
            options[f"{name}_s"] = value
    return open_source(args.video, on_message=status.line, **options)


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

    Times in `captions` are the source's; what is shown and written counts from what a player shows as 0:00, as they
    do for a file, or from the first frame of a stream that the model saw.
    """

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
        if self.info is not None:
            self.origin_s = 0.0

    @property
    def skipped_frames(self) -> int:
        """Frames that the model was too slow for."""
        return self.source.stats.skipped_frames - self.skipped_before

    def comment(self, model: Any, processor: Any, writers: list[CaptionWriter]) -> None:
        """Show the model the video and write what it says as it says it."""
        from livecc_hf.modeling.stream_state_livecc import ContextFullError
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
                    if self.origin_s is None:  # what came while the model was loaded is no loss
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
        """Say how it went."""
        if not self.n_turns:
            return
        n_spoken = sum(bool(caption.text) for caption in self.captions)
        speed = f"{self.seen_s:.1f} s of video in {self.took_s:.1f} s ({self.seen_s / self.took_s:.2f} x real time)"
        self.status.line(f"{speed}; {self.n_turns} turns, {n_spoken} with words")
        if self.source.is_paced:
            lag, stats = self.source.lag, self.source.stats
            counts = [f"{self.skipped_frames} frames skipped"]
            for number, what in (
                (stats.n_reconnects, "times connected again"),
                (stats.n_time_jumps, "jumps of the sender's clock"),
                (stats.n_damaged, "damaged spots"),
                (stats.n_undecoded, "of the sender's frames left out because decoding was too slow"),
            ):
                counts += [f"{number} {what}"] if number else []
            self.status.line(f"lag {lag.mean_s:.2f} s on average, {lag.max_s:.2f} s at most; {', '.join(counts)}")

    def write_overlay(self, complete: bool) -> None:
        """Write the copy with the words in it; up to the last turn if not `complete`."""
        from livecc_hf.caption_art import CaptionStyle
        from livecc_hf.overlay import OverlayWriter

        out = self.args.overlay
        if not complete and not self.captions:
            return
        style = CaptionStyle(font=self.args.overlay_font)
        writer = OverlayWriter(self.args.video, out, self.args.start, self.args.end, style)
        try:
            for caption in self.captions:
                self.status.update(f"writing {out}: {clock(caption.end_s - self.origin_s)}")
                writer.write(caption)
        except BaseException:
            complete = False
            raise
        finally:
            writer.close(complete)
            self.status.clear()
        self.status.line(f"wrote {out}")

    def _write(self, segments: Any, writers: list[CaptionWriter]) -> None:
        origin_s = self.origin_s or 0.0
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
        text = clock(chunk.timestamps_s[-1] + FRAME_STEP_S - self.origin_s)
        if self.info is not None and self.info.duration_s:
            text += f" of {clock(self.info.duration_s)}"
        text += f"  {self.seen_s / took_s:.2f} x real time"
        if self.source.is_paced:
            text += f"  lag {self.source.lag.last_s:.1f} s  {self.skipped_frames} frames skipped"
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
