"""The service of `livecc serve` and `livecc demo`: it is there before its model."""

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
    """Return a service that loads the arguments' model when the server starts.

    Args:
        args: with those of `model_arguments`.
        settings: of the server.
        status: shows what is loaded.
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
    """The setting of a server that limits the tokens of a turn."""

    max_new_tokens: int


def token_limit(args: argparse.Namespace) -> TokenLimit:
    """Return the setting that allows as many tokens a turn as the arguments ask for; empty if they do not."""
    if args.max_new_tokens is None:
        return {}
    return {"max_new_tokens": max(args.max_new_tokens, ServeSettings.max_new_tokens)}
