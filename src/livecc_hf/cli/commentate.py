"""`livecc commentate`: comment on videos, on standard output or in files; messages go to standard error."""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_hf.captions.writers import FORMATS, CaptionWriter, clock, open_writer
from livecc_hf.cli.commentate_plan import Job, plan
from livecc_hf.cli.commentate_run import Run
from livecc_hf.cli.exits import EXIT_ERROR, EXIT_INTERRUPTED, describe
from livecc_hf.cli.model_arguments import (
    add_model_arguments,
    check_model_options,
    check_stream_options,
    load_model_of,
)
from livecc_hf.cli.status import Status, show_warnings
from livecc_hf.cli.stream_arguments import TEXT_OPTIONS, add_option_arguments, live_defaults
from livecc_hf.cli.times import check_start, parse_duration, parse_time
from livecc_hf.sources.early_check import check_is_video
from livecc_hf.sources.spec import RTSP_TRANSPORTS, redact
from livecc_hf.utils.disk import writing

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration, StreamingProcessor
    from livecc_hf.sources import Source
    from livecc_hf.video.reader import VideoInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="one or more video files; or a camera (camera:0, /dev/video0), a URL (rtsp, rtmp, http, https, tcp, udp, "
        "...) or - for standard input",
    )
    add_option_arguments(parser, TEXT_OPTIONS)
    parser.add_argument("--start", type=parse_time, metavar="TIME", help="where to start: seconds, or hh:mm:ss.s")
    parser.add_argument("--end", type=parse_time, metavar="TIME", help="where to stop")
    parser.add_argument(
        "--max-gap",
        type=parse_duration,
        metavar="TIME",
        help="a longer jump of a file's timestamps counts as damage and is skipped; default: 1:00:00",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the commentary; default: by the suffix of --output (.txt, .srt, .vtt or .jsonl), else text",
    )
    output.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="file for the commentary, which standard output then shows as text. An existing folder, or a pattern such "
        "as {folder}/{stem}.srt (with {stem}, {name}, {parent} or {folder}), names a file for each video",
    )
    output.add_argument(
        "--overlay",
        type=Path,
        metavar="OUT.mp4",
        help="also write a copy of the video with the words burnt in; a folder or pattern as for --output",
    )
    output.add_argument("--overlay-font", type=Path, metavar="FILE", help="TrueType font of the overlay")
    output.add_argument(
        "--realtime", action="store_true", help="play in real time as from a camera, skipping outdated frames"
    )
    output.add_argument("--quiet", action="store_true", help="print only commentary, warnings and errors")
    _add_source_arguments(parser.add_argument_group("live sources", "how cameras, URLs and standard input are read"))
    add_model_arguments(parser.add_argument_group("model"))
    add_option_arguments(
        parser.add_argument_group(
            "generation", f"defaults: the model's generation_config, else sampling with {live_defaults()}"
        )
    )


def _add_source_arguments(group: Any) -> None:
    kind = group.add_mutually_exclusive_group()
    kind.add_argument(
        "--live",
        action="store_true",
        default=None,
        help="read VIDEO as live, skipping outdated frames; default: by its name",
    )
    kind.add_argument(
        "--file",
        dest="live",
        action="store_false",
        default=None,
        help="read VIDEO as a recording, of which every frame is shown",
    )
    group.add_argument(
        "--stall-timeout",
        type=parse_duration,
        metavar="TIME",
        help="reconnect after this time without a frame; default: 10",
    )
    group.add_argument(
        "--reconnects", type=_attempts, metavar="N", help="consecutive attempts to reconnect; default: 8; 0: none"
    )
    group.add_argument(
        "--rtsp-transport", choices=RTSP_TRANSPORTS, default="auto", help="default: TCP if the server offers it"
    )
    group.add_argument(
        "--no-verify-tls",
        dest="verify_tls",
        action="store_false",
        help="accept any certificate of an https, rtsps or rtmps server, such as a self-signed one of a camera",
    )


def _attempts(text: str) -> int:
    """Return a number of attempts: a whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 0 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Comment on the videos one after the other; a video that fails does not stop the others."""
    # Bad input is reported before the other imports, which take seconds.
    jobs = plan(args)
    is_alone = len(jobs) == 1
    if is_alone and jobs[0].is_file:
        check_is_video(jobs[0].video)
    check_stream_options(args)
    check_model_options(args)
    from livecc_hf.rendering.overlay import OverlayWarning
    from livecc_hf.video.reader import VideoReadWarning

    status = Status(quiet=args.quiet)
    with warnings.catch_warnings(), contextlib.closing(status):
        show_warnings(status, (VideoReadWarning, OverlayWarning), args.debug)
        if not is_alone:
            return _comment_on_all(jobs, args, status)
        with _open_video(jobs[0], args, status) as video:
            return _comment(video, *load_model_of(args, status))


def _comment_on_all(jobs: Sequence[Job], args: argparse.Namespace, status: Status) -> int:
    """Comment on several videos; return the exit code, which is that of an error if any failed."""
    failed: list[str] = []
    checked: list[Job] = []
    for job in jobs:
        with _report_errors(job, failed, args, status):
            _check(job, args)
            checked.append(job)
    if checked:
        model, processor = load_model_of(args, status)
    for job in checked:
        code = 0
        with _report_errors(job, failed, args, status), _open_video(job, args, status) as video:
            code = _comment(video, model, processor)
        if code == EXIT_INTERRUPTED:
            return code
    if failed:
        status.line(f"{len(jobs) - len(failed)} of {len(jobs)} videos done; failed: {', '.join(failed)}")
    return EXIT_ERROR if failed else 0


@contextlib.contextmanager
def _report_errors(job: Job, failed: list[str], args: argparse.Namespace, status: Status) -> Iterator[None]:
    """Print an error with one video and add its name to `failed`, so that the other videos continue."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if args.debug:
            traceback.print_exc()
        name, message = redact(job.video), describe(error)
        status.warn(f"livecc: error: {message if name in message else f'{name}: {message}'}")
        failed.append(name)


def _check(job: Job, args: argparse.Namespace) -> VideoInfo | None:
    """Check a job before the model is loaded; return what is known of a file."""
    if job.error is not None:
        raise job.error
    return _check_file(job, args) if job.is_file else None


@contextlib.contextmanager
def _open_video(job: Job, args: argparse.Namespace, status: Status) -> Iterator[Run]:
    """Open a video, and wait for the first frames of a live one."""
    info = _check(job, args)
    with _open_source(job, args, status) as source:
        source.wait_ready()
        yield Run(job, args, info, source, status)


def _comment(commentary: Run, model: LiveCCForConditionalGeneration, processor: StreamingProcessor) -> int:
    """Comment on a video; return the exit code."""
    from livecc_hf.modeling.context import ContextFullError
    from livecc_hf.sources import SourceLostError

    job, status = commentary.job, commentary.status
    stopped_by: BaseException | None = None
    with _open_output(job, commentary.args) as writers:
        try:
            commentary.comment(model, processor, writers)
        except KeyboardInterrupt as error:
            stopped_by = error
            status.line(f"interrupted at {clock(commentary.reached_s)}: the commentary so far is kept")
        except (ContextFullError, SourceLostError) as error:
            stopped_by = error
    if not job.is_file and stopped_by is None:
        status.line(f"{commentary.source.name}: the stream has ended")
    commentary.report()
    if job.overlay:
        commentary.write_overlay(complete=stopped_by is None)
    if isinstance(stopped_by, ContextFullError | SourceLostError):
        raise stopped_by
    return EXIT_INTERRUPTED if stopped_by else 0


def _check_file(job: Job, args: argparse.Namespace) -> VideoInfo:
    """Return what is known of a file; raise an error if the options cannot work with it."""
    from livecc_hf.rendering.caption_painter import CaptionStyle
    from livecc_hf.rendering.overlay import check_output
    from livecc_hf.video.reader import probe_video

    check_is_video(job.video)
    info = probe_video(job.video)
    check_start(job.video, info, args.start)
    if job.overlay is not None:
        check_output(job.video, job.overlay)
        CaptionStyle(font=args.overlay_font)
    return info


def _open_source(job: Job, args: argparse.Namespace, status: Status) -> Source:
    from livecc_hf.sources import open_source

    options: dict[str, Any] = {"realtime": args.realtime, "live": args.live, "rtsp_transport": args.rtsp_transport}
    options["verify_tls"] = args.verify_tls
    if args.stall_timeout is not None:
        options["stall_s"] = args.stall_timeout
    if args.reconnects is not None:
        options["max_reconnects"] = args.reconnects
    for name in ("start", "end", "max_gap"):
        if (value := getattr(args, name)) is not None:
            options[f"{name}_s"] = value
    return open_source(job.video, on_message=status.line, **options)


@contextlib.contextmanager
def _open_output(job: Job, args: argparse.Namespace) -> Iterator[list[CaptionWriter]]:
    if len(args.videos) > 1 and not (args.quiet and job.output):
        print(f"{redact(job.video)}:", flush=True)
    if job.output is None:
        yield [open_writer(job.format, sys.stdout)]
        return
    with writing(job.output), job.output.open("w", encoding="utf-8", newline="\n") as file:
        writers = [open_writer(job.format, file)]
        yield writers if args.quiet else [*writers, open_writer("text", sys.stdout)]
