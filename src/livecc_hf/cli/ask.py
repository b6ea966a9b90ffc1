"""`livecc ask`: answer a question about a video or an image on standard output."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_hf.cli.flags import flag_of
from livecc_hf.cli.model_arguments import (
    add_model_arguments,
    check_model_options,
    check_sampling_options,
    load_model_of,
)
from livecc_hf.cli.status import Status, show_warnings
from livecc_hf.cli.stream_arguments import SAMPLING_OPTIONS, add_option_arguments, whole_text
from livecc_hf.cli.times import check_range, check_start, parse_time
from livecc_hf.modeling.stream_options import StreamOptions
from livecc_hf.modeling.video_file import WEB_PREFIXES, local_file
from livecc_hf.sources.early_check import check_is_no_stream, check_is_video

if TYPE_CHECKING:
    from livecc_hf.modeling.video_loading import LoadOptions

_GENERATION = (*(name for name in SAMPLING_OPTIONS if name != "seed"), "max_new_tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("shown", metavar="VIDEO_OR_IMAGE", help="a video or picture: a file or an http(s) URL")
    parser.add_argument("question", metavar="QUESTION", type=whole_text, help="the question")
    reading = parser.add_argument_group("part and frames of a video")
    reading.add_argument("--start", type=parse_time, metavar="TIME", help="where to start: seconds, or hh:mm:ss.s")
    reading.add_argument("--end", type=parse_time, metavar="TIME", help="where to stop")
    reading.add_argument("--fps", type=float, metavar="X", help="frames a second; default: 2")
    reading.add_argument(
        "--max-frames", type=int, metavar="N", help="maximum frames; longer videos are sampled evenly; default: 480"
    )
    add_model_arguments(parser.add_argument_group("model"))
    group = parser.add_argument_group("generation", "defaults: the model's generation_config")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="maximum tokens of the answer; default: 512")
    add_option_arguments(group, SAMPLING_OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Print the answer."""
    # Bad input is reported before the other imports, which take seconds.
    if not args.question.strip():
        raise ValueError(f"the question is {args.question!r}: expected some text")
    shown = local_file(args.shown)
    is_on_web = shown.startswith(WEB_PREFIXES)
    if not is_on_web:
        check_is_no_stream(shown, "a file, or a file:// or http(s):// URL")
        is_picture = _check_shown(args, shown)
    check_range(args.start, args.end)
    check_sampling_options(args)
    generation = {name: value for name in _GENERATION if (value := getattr(args, name)) is not None}
    StreamOptions(**generation, seed=args.seed)  # validates the values
    check_model_options(args)
    from livecc_hf.modeling.video_loading import LoadOptions, downloaded

    reading = LoadOptions(
        fps=args.fps,
        max_frames=args.max_frames,
        min_pixels=args.min_pixels,
        max_pixels=args.max_pixels,
        start_s=args.start,
        end_s=args.end,
    )
    with contextlib.ExitStack() as opened:
        if is_on_web:  # before the model is loaded
            shown = opened.enter_context(downloaded(shown))
            is_picture = _check_shown(args, shown)
        text = _answer(args, shown, is_picture, reading, generation)
    print(text)
    return 0


def _check_shown(args: argparse.Namespace, shown: str) -> bool:
    """Check that a file is a picture, without options of a video, or a video; return whether it is a picture."""
    from livecc_hf.questions.asking import is_picture_file

    if not (Path(shown).is_file() and is_picture_file(shown)):
        check_is_video(shown)
        return False
    given = [flag_of(name) for name in ("start", "end", "fps", "max_frames") if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{' and '.join(given)}: for videos only, and {args.shown} is a picture; leave it out")
    return True


def _answer(
    args: argparse.Namespace, shown: str, is_picture: bool, reading: LoadOptions, generation: dict[str, Any]
) -> str:
    """Load the model and return its answer about a file."""
    import torch

    from livecc_hf.questions.asking import answer
    from livecc_hf.video.reader import VideoReadWarning, probe_video

    status = Status(quiet=False)
    with warnings.catch_warnings(), contextlib.closing(status):
        show_warnings(status, (VideoReadWarning,), args.debug)
        if not is_picture:
            check_start(shown, probe_video(shown), args.start)
        model, processor = load_model_of(args, status)
        if args.seed is not None:
            torch.manual_seed(args.seed)
        status.update("looking ...")
        text = answer(model, processor, shown, args.question, reading, **generation)
        status.clear()
        if not text:
            status.line("the model's answer is empty")
    return text
