"""Arguments that commands with a model share, and what is made of them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from livecc_hf.cli.status import Status, quiet_libraries

if TYPE_CHECKING:
    from livecc_hf.checkpoints.checkpoint import Checkpoint

WINDOWS = ("sliding", "reprefill", "none")
_REAL_MODEL = "chenjoya/LiveCC-7B-Instruct"
# Arguments passed on to `start_stream` under the same name, where given.
_STREAM_OPTIONS = (
    *("query", "title", "previous", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty"),
    *("max_new_tokens", "silence_threshold", "seed", "min_pixels", "max_pixels"),
    *("window", "vision_window_s", "text_window", "text_sink", "stop_at_continuation"),
)


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
    group.add_argument("--min-pixels", type=int, metavar="N", help="fewest pixels of a resized frame")
    group.add_argument("--max-pixels", type=int, metavar="N", help="most pixels of a resized frame")


def add_generation_arguments(group: Any) -> None:
    """Declare what is said, and what is remembered."""
    group.add_argument("--query", type=whole_text, help="what to comment on; default: the model's own")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens in a turn")
    add_sampling_arguments(group)
    group.add_argument("--silence-threshold", type=float, metavar="P", help="less probable silence is not chosen")
    group.add_argument(
        "--window",
        choices=WINDOWS,
        help="what is forgotten: sliding: what has left the windows below (default); reprefill: all vision, every "
        "240 s; none: nothing, until the model's positions end",
    )
    group.add_argument("--vision-window-s", type=float, metavar="S", help="seconds of vision remembered; default: 16")
    group.add_argument("--text-window", type=int, metavar="N", help="newest tokens of text remembered; default: 512")
    group.add_argument("--text-sink", type=int, metavar="N", help="first tokens of text remembered; default: 512")
    group.add_argument(
        "--stop-at-continuation",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="end a turn at ' ...'; default: yes, but for position scheme reference",
    )


def add_sampling_arguments(group: Any) -> None:
    """Declare how the next token is chosen."""
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--do-sample", action="store_true", default=None, help="sample the words")
    choice.add_argument(
        "--greedy", dest="do_sample", action="store_false", default=None, help="always take the likeliest word"
    )
    group.add_argument("--temperature", type=float, metavar="X", help="sampling temperature")
    group.add_argument("--top-p", type=float, metavar="X", help="sample among the likeliest of this probability")
    group.add_argument("--top-k", type=int, metavar="N", help="sample among this many likeliest")
    group.add_argument("--repetition-penalty", type=float, metavar="X", help="1: none")
    group.add_argument("--seed", type=int, metavar="N", help="seed of the sampling")


def whole_text(text: str) -> str:
    """The text, unless it holds half a character; unlike a file's name it must be text, since the model reads it.

    Raises:
        argparse.ArgumentTypeError: if it cannot be encoded.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} holds part of a character only: expected whole text, such as UTF-8"
        ) from None
    return text


def stream_options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `start_stream` that were given."""
    return {name: value for name in _STREAM_OPTIONS if (value := getattr(args, name, None)) is not None}


def check_window_options(args: argparse.Namespace) -> None:
    """Refuse windows where nothing is forgotten, and windows of vision where all of it is at once.

    Raises:
        ValueError: if such options are given.
    """
    idle = {"none": ("vision_window_s", "text_window", "text_sink"), "reprefill": ("vision_window_s",)}
    given = [f"--{name.replace('_', '-')}" for name in idle.get(args.window, ()) if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{' and '.join(given)}: not with --window {args.window}, which keeps no such window")


def check_stream_options(args: argparse.Namespace) -> None:
    """Refuse values that no stream takes, and options of sampling where there is none, before a model is loaded.

    Raises:
        ValueError: if there are such.
    """
    from livecc_hf.modeling import StreamOptions

    StreamOptions(**stream_options_of(args))
    names = ("temperature", "top_p", "top_k") if args.do_sample is False else ()
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{' and '.join(given)}: not with --greedy, which takes the likeliest word; leave one out")


def load_model_of(args: argparse.Namespace, status: Status) -> tuple[Any, Any]:
    """Load the model and its processor, and say which."""
    from livecc_hf.assets import bundled_model_path
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
