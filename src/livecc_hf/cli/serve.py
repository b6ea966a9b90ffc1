"""`livecc serve`: serve commentary to clients that send frames over WebSocket."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import ssl
from pathlib import Path
from typing import Any

from livecc_hf.cli.lazy_service import lazy_service, token_limit
from livecc_hf.cli.model_arguments import (
    add_model_arguments,
    check_model_options,
    check_stream_options,
    check_window_options,
)
from livecc_hf.cli.status import Status
from livecc_hf.cli.stream_arguments import add_option_arguments
from livecc_hf.pool.overload import OVERLOAD_POLICIES
from livecc_hf.serve.addresses import is_loopback
from livecc_hf.serve.settings import TOKEN_VARIABLE, ServeSettings, settings_from
from livecc_hf.utils.extras import require_extra
from livecc_hf.utils.text import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all addresses; default: %(default)s"
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0: any free port; default: %(default)s"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"file with the token that clients must send; or set {TOKEN_VARIABLE}; default: no token",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="serve without a token on an address that other machines can reach",
    )
    parser.add_argument("--ssl-certfile", metavar="FILE", help="certificate for https and wss")
    parser.add_argument("--ssl-keyfile", metavar="FILE", help="key of the certificate")
    parser.add_argument("--no-page", action="store_true", help="do not serve the web page at /")
    parser.add_argument("--quiet", action="store_true", help="print only warnings and errors")
    limits = parser.add_argument_group("limits")
    for f in dataclasses.fields(ServeSettings):
        if f.name in ("token", "max_new_tokens"):
            continue
        flag, help = f"--{f.name.replace('_', '-')}", f.metadata["help"]
        if f.name == "allowed_origins":
            parser.add_argument(flag, nargs="+", metavar="ORIGIN", help=help)
        elif f.name == "overload":
            limits.add_argument(flag, choices=OVERLOAD_POLICIES, help=f"{help}; default: {f.default}")
        else:
            number = int if f.type.startswith("int") else float
            default = "" if f.default is None else f"; default: {f.default:,.10g}"
            limits.add_argument(flag, type=number, metavar="N", help=f"{help}{default}")
    add_model_arguments(parser.add_argument_group("model"))
    generation = parser.add_argument_group("generation", "defaults of sessions, which clients may override")
    add_option_arguments(generation)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    require_extra("serve", "livecc serve")
    check_window_options(args)
    check_stream_options(args)
    settings, ssl_files = _settings(args), _ssl_files(args)
    from livecc_hf.serve.server import exit_on_sigterm, listen, make_server

    status = Status(quiet=args.quiet)
    with listen(args.host, args.port) as listener:  # fails now instead of after the model was loaded
        _check_open(args, listener.getsockname()[0], settings)
        check_model_options(args)
        exit_on_sigterm()
        failures = []

        def started(failure: Exception | None) -> None:
            status.clear()
            if failure is not None:  # end the process, so that its operator or supervisor notices
                failures.append(failure)
                server.should_exit = True
            elif service.state == "ready":
                _announce(args, listener.getsockname()[1], service, status)

        service = lazy_service(args, settings, status, started)
        server = make_server(service, has_page=not args.no_page, **ssl_files)
        logging.basicConfig(level=logging.WARNING if args.quiet else logging.INFO, format="%(asctime)s %(message)s")
        server.run(sockets=[listener])
        if failures:
            raise failures[0]
    return 0


def _settings(args: argparse.Namespace) -> ServeSettings:
    names = {f.name for f in dataclasses.fields(ServeSettings)} - {"token", "max_new_tokens"}
    given: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.token_file is not None:
        given["token"] = _token(args.token_file)
    return settings_from({**given, **token_limit(args)})


def _token(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ValueError(
            f"--token-file {file} cannot be read ({reason}): expected a text file with the token"
        ) from None


def _check_open(args: argparse.Namespace, address: str, settings: ServeSettings) -> None:
    """Raise an error if the network could use the server without a token and `--insecure` is not given."""
    if args.insecure and settings.token is not None:
        raise ValueError(
            f"--insecure is given, but there is a token (--token-file or {TOKEN_VARIABLE}): leave one of them out"
        )
    if settings.token is None and not is_loopback(address) and not args.insecure:
        raise ValueError(
            f"--host {args.host} without a token would let anybody who can reach this machine use it: set "
            f"{TOKEN_VARIABLE} or --token-file, or give --insecure"
        )


def _ssl_files(args: argparse.Namespace) -> dict[str, Any]:
    """Return uvicorn's TLS options, checked now instead of after the model was loaded."""
    if args.ssl_certfile is None:
        if args.ssl_keyfile is not None:
            raise ValueError("--ssl-keyfile is given without --ssl-certfile: give both, or none")
        return {}
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(args.ssl_certfile, args.ssl_keyfile)
    except OSError as error:  # includes ssl.SSLError
        key = f" with key {args.ssl_keyfile}" if args.ssl_keyfile else ""
        raise ValueError(
            f"certificate {args.ssl_certfile}{key} cannot be used ({one_line(error)}): expected a matching pair of PEM "
            "files"
        ) from None
    return {"ssl_certfile": args.ssl_certfile, "ssl_keyfile": args.ssl_keyfile}


def _announce(args: argparse.Namespace, port: int, service: Any, status: Status) -> None:
    secure = "s" if args.ssl_certfile else ""
    host = f"[{args.host}]" if ":" in args.host else args.host
    status.line(
        f"listening on ws{secure}://{host}:{port}/v1/commentary for {service.settings.max_sessions} clients; "
        f"warmed up in {service.warm_up_s:.1f} s, with up to {service.warm_up_streams} concurrent streams"
    )
    if not args.no_page:
        status.line(f"page: http{secure}://{host}:{port}/")
    if args.insecure:
        status.warn(
            f"livecc: warning: anybody who can reach {host}:{port} may use it: set {TOKEN_VARIABLE} or --token-file"
        )
