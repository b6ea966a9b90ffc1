"""`livecc evaluate score`: score files of predictions and verdicts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from livecc_hf.utils.output_folder import make_output_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Score files of predictions and verdicts, of livecc evaluate or as published for Video-MME, OVO-Bench, "
        "MVBench and LiveSports-3K. Needs no model and no GPU. With verdicts, also give the files of the commentaries "
        "that they judge."
    )
    parser.add_argument("paths", nargs="+", metavar="DIR_OR_FILE", help="predictions, verdicts, or folders of them")
    parser.add_argument("--protocol", help="how answers to questions are read; default: as each file says")
    parser.add_argument("--model-name", metavar="NAME", help="the model's name in published verdicts")
    parser.add_argument(
        "--annotations", metavar="FILE", help="the benchmark's rows; a row without an answer then counts as wrong"
    )
    parser.add_argument(
        "--incomplete", action="store_true", help="show headline scores even if rows are missing, with N"
    )
    parser.add_argument("--headline", action="store_true", help="print only the headline scores, as for a model card")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for scores.json and scores.md")
    parser.add_argument(
        "--eval-results",
        nargs=3,
        metavar=("FOLDER", "DATASET_ID", "TASK_ID"),
        help="write the headline score of one file to FOLDER/.eval_results, for the registered benchmark on the Hub",
    )


def run(args: argparse.Namespace) -> int:
    """Print the scores, and write the files that were asked for."""
    from livecc_hf.evaluation.reporting.eval_results import write_eval_results
    from livecc_hf.evaluation.reporting.score_files import markdown, write_markdown, write_scores
    from livecc_hf.evaluation.scoring import score

    if args.out is not None:
        make_output_folder(args.out)
    scores = score(args.paths, args.protocol, args.model_name, args.incomplete, args.annotations)
    if args.eval_results and len(scores) != 1:
        raise ValueError(f"--eval-results takes one score, but there are {len(scores)}: give one file")
    print(markdown(scores, args.headline), end="")
    if args.out is not None:
        write_scores(args.out / "scores.json", scores)
        write_markdown(args.out / "scores.md", markdown(scores))
        print(f"wrote {args.out / 'scores.json'} and {args.out / 'scores.md'}", file=sys.stderr)
    if args.eval_results:
        print(f"wrote {write_eval_results(args.eval_results[0], scores[0], *args.eval_results[1:])}", file=sys.stderr)
    return 0
