"""`livecc evaluate`: run benchmarks; score, compare, judge, export and show predictions."""

# Name: (summary, module); see `add_commands`.
TASKS = {
    "list": ("list the benchmarks and their protocols", "livecc_hf.cli.evaluate.list"),
    "run": ("run a model on a benchmark", "livecc_hf.cli.evaluate.run"),
    "score": (
        "score files of predictions and verdicts, including published ones",
        "livecc_hf.cli.evaluate.score",
    ),
    "compare": ("compare two files of one benchmark, row by row", "livecc_hf.cli.evaluate.compare"),
    "judge": ("have a language model compare commentaries with an opponent's", "livecc_hf.cli.evaluate.judge"),
    "export": ("write commentaries in the formats of other evaluators", "livecc_hf.cli.evaluate.export"),
    "report": (
        "write a page with charts, timelines and verdicts to review",
        "livecc_hf.cli.evaluate.report",
    ),
    "lmms-tasks": ("print the folder of tasks for lmms-eval", "livecc_hf.cli.evaluate.lmms_tasks"),
}
