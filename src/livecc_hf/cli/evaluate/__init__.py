"""`livecc evaluate`: run a benchmark, score predictions, compare them, have commentaries judged, look at it all."""

# By name what a task does, and its module; see `add_commands`.
TASKS = {
    "list": ("the benchmarks and their protocols", "livecc_hf.cli.evaluate.list"),
    "run": ("put a benchmark to a model", "livecc_hf.cli.evaluate.run"),
    "score": (
        "figures from files of predictions and verdicts, also those that others published",
        "livecc_hf.cli.evaluate.score",
    ),
    "compare": ("two files of one benchmark, paired by row", "livecc_hf.cli.evaluate.compare"),
    "judge": ("a language model compares commentaries with an opponent's", "livecc_hf.cli.evaluate.judge"),
    "export": ("commentaries in the layouts of other evaluators", "livecc_hf.cli.evaluate.export"),
    "report": (
        "one page with charts, timelines, and verdicts to look at and overrule",
        "livecc_hf.cli.evaluate.report",
    ),
    "lmms-tasks": ("the folder of tasks for lmms-eval", "livecc_hf.cli.evaluate.lmms_tasks"),
}
