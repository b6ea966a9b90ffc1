"""`livecc evaluate judge`: have a language model compare commentaries with an opponent's."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from livecc_hf.utils.output_file import make_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Have a language model compare commentaries with an opponent's, in both orders. After an interruption, run the "
        "command again to continue; no question is paid for twice. Next step: livecc evaluate score OUT PREDICTIONS "
        "OPPONENT."
    )
    parser.add_argument("predictions", metavar="PREDICTIONS", help="the model's commentaries")
    parser.add_argument("opponent", metavar="OPPONENT", help="the commentaries to compare with")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="file for the verdicts (.jsonl)")
    parser.add_argument("--judge", required=True, metavar="MODEL", help="the judge's model name at the endpoint")
    parser.add_argument(
        "--base-url",
        default="http://localhost:8000/v1",
        metavar="URL",
        help="an endpoint with OpenAI's chat completions API; default: %(default)s, vLLM's address",
    )
    parser.add_argument(
        "--api-key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the API key; default: %(default)s",
    )
    parser.add_argument(
        "--protocol",
        default="livecc",
        choices=("livecc", "inf-streams"),
        help="livecc: whole commentaries, as in LiveSports-3K (default); inf-streams: windows, as in StreamingVLM",
    )
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="reference commentaries: LiveSports-3K CC's rows; for inf-streams, lines with video and content, a list "
        "of [start, end, text]; default: those in the predictions, else from the Hub",
    )
    parser.add_argument("--dataset-revision", metavar="REVISION", help="revision of the dataset on the Hub")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="ask N times; 2 gives test-retest agreement")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    parser.add_argument(
        "--concurrency", type=int, default=16, metavar="N", help="concurrent requests; default: %(default)s"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="longest wait for a reply, in seconds; default: %(default)g",
    )
    parser.add_argument(
        "--attempts", type=int, default=5, metavar="N", help="attempts per question; default: %(default)s"
    )
    parser.add_argument("--cache", type=Path, metavar="FILE", help="cache of replies across runs; default: next to OUT")


def run(args: argparse.Namespace) -> int:
    """Ask for the missing verdicts, and print a summary; return 1 if some failed."""
    from livecc_hf.endpoints.chat import RetryLimits
    from livecc_hf.evaluation.judging.ask import JudgeOptions, judge

    make_place(args.out, "--out")
    options = JudgeOptions(
        model=args.judge,
        base_url=args.base_url,
        api_key_env=args.api_key_env,
        repeat=args.repeat,
        concurrency=args.concurrency,
        cache=args.cache,
        limit=args.limit,
        limits=RetryLimits(args.timeout, args.attempts),
        protocol=args.protocol,
    )
    result = judge(args.predictions, args.opponent, args.out, options, args.annotations, args.dataset_revision)
    for note in result.notes:
        print(f"livecc: warning: {note}", file=sys.stderr)
    for what, reason in result.failed:
        print(f"failed: {what}: {reason}", file=sys.stderr)
    print(
        f"{result.n_rows:,} rows; {result.n_asked:,} new replies, {result.n_cached:,} cached; "
        f"{result.n_invalid:,} invalid; {len(result.failed):,} failed; wrote {result.out}",
        file=sys.stderr,
    )
    return 1 if result.failed else 0
