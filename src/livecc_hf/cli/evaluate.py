"""`livecc evaluate`: run a benchmark, score predictions, compare them, have commentaries judged, look at it all."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .tasks import add_task, make_tasks, run_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    tasks = make_tasks(parser)
    for add in (_add_list, _add_run, _add_score, _add_compare, _add_judge, _add_export, _add_report, _add_lmms):
        add(tasks)


def _add_list(tasks: argparse._SubParsersAction) -> None:
    add_task(
        tasks,
        "list",
        _list,
        help="the benchmarks and their protocols",
        description="List the benchmarks, their rows and their protocols.",
    )


def _add_run(tasks: argparse._SubParsersAction) -> None:
    from livecc_hf.cli.model_arguments import add_model_arguments

    run = add_task(
        tasks,
        "run",
        _run,
        help="put a benchmark to a model",
        description="Put a benchmark to a model and write what it answers. Started again after an interruption, it "
        "goes on. Under accelerate launch several GPUs share it.",
    )
    run.add_argument("suite", metavar="SUITE", help="a benchmark, see livecc evaluate list; A,B: about the same videos")
    run.add_argument("--videos", required=True, type=Path, metavar="DIR", help="folder with the benchmark's videos")
    run.add_argument("--out", required=True, type=Path, metavar="DIR", help="where predictions go")
    run.add_argument("--protocol", help="how the benchmark is put; default: the first that list shows")
    run.add_argument("--limit", type=int, metavar="N", help="only the first N rows, for a trial")
    run.add_argument("--annotations", metavar="FILE", help="the benchmark's rows; default: from the Hub")
    run.add_argument("--dataset-revision", metavar="REVISION", help="of the rows on the Hub")
    run.add_argument("--subtitles", type=Path, metavar="DIR", help="Video-MME's VIDEO.srt files")
    run.add_argument(
        "--query-form",
        choices=("instruct", "base"),
        default="instruct",
        help="of commentary: what the model was trained on",
    )
    add_model_arguments(run.add_argument_group("model"))


def _add_score(tasks: argparse._SubParsersAction) -> None:
    score = add_task(
        tasks,
        "score",
        _score,
        help="figures from files of predictions and verdicts, also those that others published",
        description="Score files of predictions and verdicts: ours, or as published for Video-MME, OVO-Bench, MVBench "
        "and LiveSports-3K. Needs no model and no GPU. Verdicts find the texts that they judge among the files given.",
    )
    score.add_argument("paths", nargs="+", metavar="DIR_OR_FILE", help="predictions, verdicts, or folders of them")
    score.add_argument("--protocol", help="how answers to questions are read; default: as each file says")
    score.add_argument("--model-name", metavar="NAME", help="of published verdicts: which winner is the model")
    score.add_argument(
        "--annotations", metavar="FILE", help="the benchmark's own rows: what lacks an answer counts as wrong then"
    )
    score.add_argument("--incomplete", action="store_true", help="show headlines though rows are missing, with N")
    score.add_argument("--headline", action="store_true", help="print the headlines only, as for a model card")
    score.add_argument("--out", type=Path, metavar="DIR", help="write scores.json and scores.md there")
    score.add_argument(
        "--eval-results",
        nargs=3,
        metavar=("FOLDER", "DATASET_ID", "TASK_ID"),
        help="write the headline of one file into FOLDER/.eval_results, for the registered benchmark on the Hub",
    )


def _add_compare(tasks: argparse._SubParsersAction) -> None:
    compare = add_task(
        tasks,
        "compare",
        _compare,
        help="two files of one benchmark, paired by row",
        description="Compare two files of answers, verdicts or commentaries of one benchmark, row by row.",
    )
    compare.add_argument("a", metavar="A", help="predictions or verdicts")
    compare.add_argument("b", metavar="B", help="of the same benchmark")
    compare.add_argument("--protocol", help="how answers are read; default: as each file says")
    compare.add_argument(
        "--model-names",
        nargs=2,
        default=(None, None),
        metavar=("NAME_A", "NAME_B"),
        help="models of published verdicts",
    )
    compare.add_argument("--across-protocols", action="store_true", help="compare files of different protocols too")


def _add_judge(tasks: argparse._SubParsersAction) -> None:
    judge = add_task(
        tasks,
        "judge",
        _judge,
        help="a language model compares commentaries with an opponent's",
        description="Have a language model compare commentaries with an opponent's, in both orders. Started again "
        "after an interruption, it goes on, and no question is paid for twice. Then: livecc evaluate score OUT "
        "PREDICTIONS OPPONENT.",
    )
    judge.add_argument("predictions", metavar="PREDICTIONS", help="the model's commentaries")
    judge.add_argument("opponent", metavar="OPPONENT", help="the commentaries that they are compared with")
    judge.add_argument("--out", required=True, type=Path, metavar="FILE", help="where verdicts go (.jsonl)")
    judge.add_argument("--judge", required=True, metavar="MODEL", help="the judge, as the endpoint names it")
    judge.add_argument(
        "--base-url",
        default="http://localhost:8000/v1",
        metavar="URL",
        help="an endpoint that speaks OpenAI's chat completions (default: %(default)s, where vLLM serves)",
    )
    judge.add_argument(
        "--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help="variable with the key (default: %(default)s)"
    )
    judge.add_argument(
        "--protocol",
        default="livecc",
        choices=("livecc", "inf-streams"),
        help="livecc: LiveSports-3K's, of whole commentaries (default); inf-streams: StreamingVLM's, of windows",
    )
    judge.add_argument(
        "--annotations",
        metavar="FILE",
        help="LiveSports-3K CC's rows, with what people said; of windows: lines of video and content, a list of "
        "[start, end, text]; default: what the predictions carry, else from the Hub",
    )
    judge.add_argument("--dataset-revision", metavar="REVISION", help="of the rows on the Hub")
    judge.add_argument("--repeat", type=int, default=1, metavar="N", help="ask N times; 2 gives test-retest agreement")
    judge.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    judge.add_argument("--concurrency", type=int, default=16, metavar="N", help="calls at once (default: %(default)s)")
    judge.add_argument("--timeout", type=float, default=120.0, metavar="S", help="longest wait for a reply")
    judge.add_argument("--attempts", type=int, default=5, metavar="N", help="tries for a reply (default: %(default)s)")
    judge.add_argument("--cache", type=Path, metavar="FILE", help="keeps replies over runs; default: beside OUT")


def _add_export(tasks: argparse._SubParsersAction) -> None:
    export = add_task(
        tasks,
        "export",
        _export,
        help="commentaries in the layouts of other evaluators",
        description="Write commentaries as Proact-VL has them, the text of each second, or as StreamingVLM's judge has "
        "them, in parts of 100 seconds.",
    )
    export.add_argument("predictions", metavar="PREDICTIONS", help="commentaries with turns")
    export.add_argument("--format", required=True, choices=("proact-vl", "inf-streams"), help="whose layout")
    export.add_argument("--out", required=True, type=Path, metavar="FILE", help="where lines go (.jsonl)")


def _add_report(tasks: argparse._SubParsersAction) -> None:
    report = add_task(
        tasks,
        "report",
        _report,
        help="one page with charts, timelines, and verdicts to look at and overrule",
        description="Write one HTML page of predictions and verdicts: figures, charts, timelines of commentaries, and "
        "verdicts with their texts, to look at and overrule.",
    )
    report.add_argument("paths", nargs="+", metavar="DIR_OR_FILE", help="predictions, verdicts, or folders of them")
    report.add_argument("--out", required=True, type=Path, metavar="FILE", help="the page (.html)")
    report.add_argument("--videos", type=Path, metavar="DIR", help="folder with the videos, for pictures")
    report.add_argument("--annotations", metavar="FILE", help="LiveSports-3K CC's rows, for what people said")
    report.add_argument("--model-name", metavar="NAME", help="of published verdicts: which winner is the model")
    report.add_argument("--incomplete", action="store_true", help="show headlines though rows are missing, with N")


def _add_lmms(tasks: argparse._SubParsersAction) -> None:
    add_task(
        tasks,
        "lmms-tasks",
        _lmms_tasks,
        help="the folder of tasks for lmms-eval",
        description="Print the folder of tasks for lmms-eval: lmms-eval --include_path $(livecc evaluate lmms-tasks).",
    )


run = run_task  # what the command calls


def _list(args: argparse.Namespace) -> int:
    from livecc_hf.evaluation.scoring import list_suites

    suites = list_suites()
    rows = [("benchmark", "rows", "questions from", "protocols")]
    rows += [(suite.name, f"{suite.n_rows:,}", suite.dataset, ", ".join(suite.protocols)) for suite in suites]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
    return 0


def _run(args: argparse.Namespace) -> int:
    if args.model is None:
        raise ValueError("no model is named: expected --model FOLDER_OR_HUB_ID")
    if args.min_pixels is not None:
        raise ValueError("--min-pixels is given: the fewest pixels of a frame are the protocol's; leave it out")
    from livecc_hf.checkpoints.names import check_model_name
    from livecc_hf.cli.status import quiet_libraries
    from livecc_hf.evaluation.running.plan import RunOptions
    from livecc_hf.evaluation.running.run import ModelSource, run

    check_model_name(args.model)
    quiet_libraries(args.debug)
    options = RunOptions(
        protocol=args.protocol,
        limit=args.limit,
        annotations=args.annotations,
        dataset_revision=args.dataset_revision,
        subtitles=args.subtitles,
        query_form=args.query_form,
        max_pixels=args.max_pixels,
    )
    names = ("device", "dtype", "load_in_4bit", "position_scheme", "base", "merge")
    source = ModelSource(args.model, **{name: getattr(args, name) for name in names})
    result = run(args.suite, source, args.videos, args.out, options)
    done = f"{result.n_done:,} of {result.n_rows:,} rows answered"
    print(f"{done}; wrote {', '.join(map(str, result.files))}", file=sys.stderr)
    return 1 if result.failures else 0


def _score(args: argparse.Namespace) -> int:
    from livecc_hf.evaluation.reporting.eval_results import write_eval_results
    from livecc_hf.evaluation.reporting.score_files import markdown, write_markdown, write_scores
    from livecc_hf.evaluation.scoring import score

    scores = score(args.paths, args.protocol, args.model_name, args.incomplete, args.annotations)
    if args.eval_results and len(scores) != 1:
        raise ValueError(f"--eval-results takes one score, and there are {len(scores)}: name one file")
    print(markdown(scores, args.headline), end="")
    if args.out is not None:
        write_scores(args.out / "scores.json", scores)
        write_markdown(args.out / "scores.md", markdown(scores))
        print(f"wrote {args.out / 'scores.json'} and {args.out / 'scores.md'}", file=sys.stderr)
    if args.eval_results:
        print(f"wrote {write_eval_results(args.eval_results[0], scores[0], *args.eval_results[1:])}", file=sys.stderr)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from livecc_hf.evaluation.reporting.score_files import comparison_markdown
    from livecc_hf.evaluation.scoring import compare

    names = tuple(args.model_names)
    print(comparison_markdown(compare(args.a, args.b, args.protocol, names, args.across_protocols)), end="")
    return 0


def _judge(args: argparse.Namespace) -> int:
    from livecc_hf.endpoints.chat import RetryLimits
    from livecc_hf.evaluation.judging.ask import JudgeOptions, judge

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
        f"{result.n_rows:,} rows; {result.n_asked:,} replies now, {result.n_cached:,} known; "
        f"{result.n_invalid:,} invalid; {len(result.failed):,} failed; wrote {result.out}",
        file=sys.stderr,
    )
    return 1 if result.failed else 0


def _export(args: argparse.Namespace) -> int:
    from livecc_hf.evaluation.exporting import export

    n = export(args.predictions, args.format, args.out)
    print(f"wrote {args.out}, {n:,} lines", file=sys.stderr)
    return 0


def _report(args: argparse.Namespace) -> int:
    from livecc_hf.evaluation.reporting.report import report

    scores = report(args.paths, args.out, args.videos, args.annotations, args.incomplete, args.model_name)
    print(f"wrote {args.out}, with {len(scores)} score{'' if len(scores) == 1 else 's'}", file=sys.stderr)
    return 0


def _lmms_tasks(args: argparse.Namespace) -> int:
    from livecc_hf.evaluation.lmms import tasks_folder

    print(tasks_folder())
    return 0
