"""Arguments shared by commands that load a model, and the loading itself."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.names import check_model_name
from livecc_hf.cli.flags import flag_of
from livecc_hf.cli.status import Status, quiet_libraries
from livecc_hf.cli.stream_arguments import FRAME_OPTIONS, add_option_arguments, stream_options_of
from livecc_hf.modeling import StreamOptions

if TYPE_CHECKING:
    from livecc_hf.checkpoints.checkpoint import Checkpoint
    from livecc_hf.modeling import LiveCCForConditionalGeneration, StreamingProcessor

_REAL_MODEL = "chenjoya/LiveCC-7B-Instruct"


def add_model_arguments(group: Any, has_default: bool = True, frame_options: Sequence[str] = FRAME_OPTIONS) -> None:
    """Declare the arguments that choose a model and how it is loaded.

    Args:
        group: a parser, or a group of its arguments.
        has_default: whether the bundled model is used if none is given; else `--model` is required.
        frame_options: the limits of a frame that may be given.
    """
    group.add_argument(
        "--model",
        required=not has_default,
        metavar="FOLDER_OR_HUB_ID",
        help="the model or adapter" + "; default: the bundled livecc-tiny, a demonstration" * has_default,
    )
    group.add_argument(
        "--base", metavar="FOLDER_OR_HUB_ID", help="an adapter's base; default: the one that the adapter names"
    )
    group.add_argument("--merge", action="store_true", help="merge an adapter into the weights, which is faster")
    group.add_argument("--device", help="such as cuda:0 or cpu; default: CUDA if available")
    group.add_argument("--dtype", help="such as bfloat16; default: float32 on CPU, else that of the checkpoint")
    group.add_argument("--load-in-4bit", action="store_true", help="quantise with bitsandbytes while loading")
    group.add_argument(
        "--position-scheme",
        choices=("mrope", "sequential", "reference"),
        help="how positions are counted; default: as saved in the checkpoint, else inferred from it",
    )
    add_option_arguments(group, frame_options)


def check_model_options(args: argparse.Namespace) -> None:
    """Check the options of a model before it is looked for or loaded; imports PyTorch only for a device or dtype.

    Raises:
        ValueError: if `--model` cannot be a model, this machine has no such `--device`, or `--dtype` is unknown.
    """
    if args.model is not None:
        check_model_name(args.model)
    if args.device is not None or args.dtype is not None:
        from livecc_hf.checkpoints.placement import check_placement

        check_placement(args.device, args.dtype)


def check_window_options(args: argparse.Namespace) -> None:
    """Check that no option of a window is given that `--window` does not use.

    Raises:
        ValueError: if there is one.
    """
    idle = {"none": ("vision_window_s", "text_window", "text_sink"), "reprefill": ("vision_window_s",)}
    given = [flag_of(name) for name in idle.get(args.window, ()) if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{' and '.join(given)}: not with --window {args.window}, which does not use it; leave it out")


def check_stream_options(args: argparse.Namespace) -> None:
    """Check the options of a stream before a model is loaded.

    Raises:
        ValueError: if a value is not valid, or a sampling option is given with `--greedy`.
    """
    StreamOptions(**stream_options_of(args))
    check_sampling_options(args)


def check_sampling_options(args: argparse.Namespace) -> None:
    """Check that no sampling option is given with `--greedy`.

    Raises:
        ValueError: if there is one.
    """
    names = ("temperature", "top_p", "top_k") if args.do_sample is False else ()
    given = [flag_of(name) for name in names if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{' and '.join(given)}: not with --greedy, which does not sample; leave one of them out")


def load_model_of(
    args: argparse.Namespace, status: Status
) -> tuple[LiveCCForConditionalGeneration, StreamingProcessor]:
    """Load the model and its processor, and print which model it is, with its notes."""
    from livecc_hf.checkpoints.checkpoint import device_notes, open_checkpoint
    from livecc_hf.modeling.video_processing_livecc import resize_limits

    quiet_libraries(args.debug)
    name = args.model if args.model is not None else bundled_model_path()
    status.update(f"looking for {name} ...")
    checkpoint = open_checkpoint(name, args.position_scheme, args.base)  # raises one-line errors before the slow part
    checkpoint.check_merge(args.merge, args.load_in_4bit)
    status.clear()
    if args.model is None:
        status.line(
            "model: the bundled livecc-tiny, a demonstration that only knows moving coloured shapes. "
            f"For real videos: --model {_REAL_MODEL}"
        )
    else:
        status.line(f"model: {name}")
    status.update("loading ...")
    processor = checkpoint.load_processor()
    resize_limits(processor.video_processor, args.min_pixels, args.max_pixels)  # checked before the slow part
    model = checkpoint.load_model(args.device, args.dtype, args.load_in_4bit, args.merge, processor)
    status.clear()
    for note in (*checkpoint.notes, *device_notes(args.device), *_adapter_notes(checkpoint, args)):
        status.line(note)
    return model, processor


def _adapter_notes(checkpoint: Checkpoint, args: argparse.Namespace) -> list[str]:
    """Return notes on an adapter: whether it was merged, and if not, how to merge it."""
    if checkpoint.adapter is None:
        return []
    if args.merge:
        return ["the adapter was merged into the weights"]
    ways = [f"livecc merge {args.model} OUT writes a merged model"]
    if not args.load_in_4bit:
        ways.insert(0, "--merge merges it while loading")
    return [f"an adapter that is not merged makes each token slower: {', '.join(ways)}"]
