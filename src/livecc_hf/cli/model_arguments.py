"""Arguments that commands with a model share, and what is made of them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from livecc_hf.assets import bundled_model_path
from livecc_hf.cli.status import Status, quiet_libraries
from livecc_hf.cli.stream_arguments import FRAME_OPTIONS, add_option_arguments, flag_of, stream_options_of
from livecc_hf.modeling import StreamOptions

if TYPE_CHECKING:
    from livecc_hf.checkpoints.checkpoint import Checkpoint
    from livecc_hf.modeling import LiveCCForConditionalGeneration, StreamingProcessor

_REAL_MODEL = "chenjoya/LiveCC-7B-Instruct"


def add_model_arguments(group: Any) -> None:
    """Declare which model is loaded, and how."""
    group.add_argument(
        "--model",
        metavar="FOLDER_OR_HUB_ID",
        help="the model, or an adapter; default: the bundled livecc-tiny, a demonstration",
    )
    group.add_argument("--base", metavar="FOLDER_OR_HUB_ID", help="an adapter's base, if not where the adapter says")
    group.add_argument("--merge", action="store_true", help="fold an adapter into the weights, which makes it faster")
    group.add_argument("--device", help="such as cuda:0 or cpu; default: CUDA if there is any")
    group.add_argument("--dtype", help="such as bfloat16; default: float32 on CPU, the checkpoint's own elsewhere")
    group.add_argument("--load-in-4bit", action="store_true", help="quantise with bitsandbytes while loading")
    group.add_argument(
        "--position-scheme",
        choices=("mrope", "sequential", "reference"),
        help="how positions are counted; default: what the model says, or is taken to need",
    )
    add_option_arguments(group, FRAME_OPTIONS)


def check_window_options(args: argparse.Namespace) -> None:
    """Refuse windows where nothing is forgotten, and windows of vision where all of it is at once.

    Raises:
        ValueError: if such options are given.
    """
    idle = {"none": ("vision_window_s", "text_window", "text_sink"), "reprefill": ("vision_window_s",)}
    given = [flag_of(name) for name in idle.get(args.window, ()) if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{' and '.join(given)}: not with --window {args.window}, which keeps no such window")


def check_stream_options(args: argparse.Namespace) -> None:
    """Refuse values that no stream takes, and options of sampling where there is none, before a model is loaded.

    Raises:
        ValueError: if there are such.
    """
    StreamOptions(**stream_options_of(args))
    names = ("temperature", "top_p", "top_k") if args.do_sample is False else ()
    given = [flag_of(name) for name in names if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{' and '.join(given)}: not with --greedy, which takes the likeliest word; leave one out")


def load_model_of(
    args: argparse.Namespace, status: Status
) -> tuple[LiveCCForConditionalGeneration, StreamingProcessor]:
    """Load the model and its processor, and say which."""
    from livecc_hf.checkpoints.checkpoint import device_notes, open_checkpoint

    quiet_libraries(args.debug)
    name = args.model if args.model is not None else bundled_model_path()
    status.update(f"looking for {name} ...")
    checkpoint = open_checkpoint(name, args.position_scheme, args.base)  # fails early, and in one line
    checkpoint.check_merge(args.merge, args.load_in_4bit)
    status.clear()
    if args.model is None:
        status.line(
            "model: livecc-tiny, bundled. A demonstration: it knows moving coloured shapes and nothing else. "
            f"For real videos: --model {_REAL_MODEL}"
        )
    else:
        status.line(f"model: {name}")
    status.update("loading ...")
    processor = checkpoint.load_processor()
    model = checkpoint.load_model(args.device, args.dtype, args.load_in_4bit, args.merge, processor)
    status.clear()
    for note in (*checkpoint.notes, *device_notes(args.device), *_adapter_notes(checkpoint, args)):
        status.line(note)
    return model, processor


def _adapter_notes(checkpoint: Checkpoint, args: argparse.Namespace) -> list[str]:
    """Say that an adapter makes each token slower, and how to be rid of that."""
    if checkpoint.adapter is None:
        return []
    if args.merge:
        return ["the adapter was merged into the weights"]
    ways = [f"livecc merge {args.model} OUT writes a model without it"]
    if not args.load_in_4bit:
        ways.insert(0, "--merge folds it in while loading")
    return [f"an adapter that is not merged is slower: {', '.join(ways)}"]
