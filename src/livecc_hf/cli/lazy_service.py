"""Makes the service of `livecc serve` and `livecc demo`, which listens before its model is loaded."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

from livecc_hf.cli.model_arguments import load_model_of
from livecc_hf.cli.status import Status
from livecc_hf.cli.stream_arguments import stream_options_of
from livecc_hf.modeling import StreamOptions
from livecc_hf.serve.settings import ServeSettings

if TYPE_CHECKING:
    from livecc_hf.serve.service import CommentaryService


def lazy_service(
    args: argparse.Namespace,
    settings: ServeSettings,
    status: Status,
    on_start: Callable[[Exception | None], None] | None = None,
) -> CommentaryService:
    """Return a service that loads its model when the server starts.

    Args:
        args: the arguments declared by `model_arguments` and `stream_arguments`.
        settings: the server's settings.
        status: shows the progress of loading.
        on_start: as of `CommentaryService`.
    """
    from livecc_hf.serve.service import CommentaryService

    return CommentaryService(
        None,
        None,
        settings,
        StreamOptions(**stream_options_of(args)),
        load=functools.partial(load_model_of, args, status),
        name=args.model or "livecc-tiny",
        on_start=on_start,
    )


class TokenLimit(TypedDict, total=False):
    """The server setting that limits the tokens of a turn."""

    max_new_tokens: int


def token_limit(args: argparse.Namespace) -> TokenLimit:
    """Return a setting that allows at least the `--max-new-tokens` given; empty without it."""
    if args.max_new_tokens is None:
        return {}
    return {"max_new_tokens": max(args.max_new_tokens, ServeSettings.max_new_tokens)}
