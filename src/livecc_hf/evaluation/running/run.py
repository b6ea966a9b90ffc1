"""`livecc evaluate run`: runs benchmarks on a model; it can resume after a kill and be shared by several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_hf.utils.one_run import only_run
from livecc_hf.utils.output_folder import make_output_folder
from livecc_hf.utils.reports import Say, say_to_stderr
from livecc_hf.utils.text import counted, one_line

from ..distributed import rank_and_count, wait_for_all
from ..predictions.file import RowFile, RowSet, read_rows, write_rows
from ..predictions.rows import ChoiceRow, CommentaryRow, Row, VerdictRow
from ..progress import RowProgress
from ..suites import SUITES, suite_of
from ..tasks.livesports_cc import SportsEvent
from ..tasks.questions import FrameRule, Question
from ..tasks.videos import VideoFolder
from .plan import Plan, RunOptions, Task, make_plans, media_of, model_name, model_revision, suite_names

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

    from .commentary import Commentator
    from .shared_vision import SharedVision

PARTS = "parts"
Result = ChoiceRow | CommentaryRow  # the rows that a model makes; verdicts are made by a judge


@dataclass(frozen=True)
class ModelSource:
    """The model to run, and how to load it; the arguments of `load_model_and_processor`.

    Attributes:
        name: folder or Hub id.
        device: such as "cuda:0"; default: the process's GPU, or the CPU.
        dtype: such as "bfloat16"; default: float32 on a CPU, the checkpoint's own elsewhere.
        load_in_4bit: quantise the language model with bitsandbytes.
        position_scheme: overrides the checkpoint's position scheme.
        base: for an adapter, its base model; default: the base that the adapter names.
        merge: merge an adapter into the weights.
    """

    name: str
    device: str | None = None
    dtype: str | None = None
    load_in_4bit: bool = False
    position_scheme: str | None = None
    base: str | None = None
    merge: bool = False


@dataclass
class RunResult:
    """The result of a run.

    Attributes:
        files: the prediction files, one per benchmark.
        n_rows: number of rows of all benchmarks.
        n_done: number of rows with an answer.
        failures: the reason for each row without an answer, by benchmark and row key.
    """

    files: list[Path] = field(default_factory=list)
    n_rows: int = 0
    n_done: int = 0
    failures: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Unit:
    """Rows about one clip, each with the number of its plan."""

    media: tuple[str, ...]
    tasks: list[tuple[int, Task]]


def run(
    suites: str | list[str],
    model: str | os.PathLike | ModelSource,
    videos: str | os.PathLike,
    out: str | os.PathLike,
    options: RunOptions | None = None,
    say: Say = say_to_stderr,
) -> RunResult:
    """Run benchmarks on a model, and write its answers.

    `OUT/SUITE.jsonl` gets a row for each row of the benchmark. Rows without an answer hold the reason, and are asked
    again by the next run. Each answer is on disk before the next question is asked. Under `accelerate launch`, the
    processes share the clips.

    Args:
        suites: a benchmark, or several about the same videos, whose clips are then processed only once.
        model: folder or Hub id, or a `ModelSource`.
        videos: folder with the benchmark's videos.
        out: folder for the results.
        options: options of the run.
        say: called with each progress line.

    Raises:
        ValueError: if a benchmark, protocol, model or file is not as expected, or `out` holds the results of a
            different run.
        OSError: if a file cannot be read or written.
    """
    options = options or RunOptions()
    source = model if isinstance(model, ModelSource) else ModelSource(str(model))
    out = Path(out).expanduser()
    for name in suite_names(suites):
        suite_of(name)
    folder = VideoFolder(videos)
    make_output_folder(out)
    rank, n_processes = rank_and_count()
    if rank:
        say = _say_nothing
    with nullcontext() if rank else only_run(out, "folder"):
        plans = make_plans(suites, _pinned(suites, options, out))
        if missing := _missing_videos(plans, folder):
            say(missing)
        loaded, processor = _load(source, rank, n_processes, say)
        runner = _Runner(loaded, processor, plans, options, source, folder, out, rank)
        runner.check()
        runner.work(list(_units(plans))[rank::n_processes], say)
        wait_for_all()
        return runner.merge(is_main=rank == 0)


def _say_nothing(line: str) -> None:
    """Drop a progress line: only the first process reports."""


def _missing_videos(plans: list[Plan], folder: VideoFolder) -> str | None:
    """Return a message about videos that are missing, if any.

    Raises:
        FileNotFoundError: if all are.
    """
    media = list(dict.fromkeys(media_of(task) for plan in plans for task in plan.tasks))
    missing = [names[0] for names in media if folder.find(names) is None]
    if missing and len(missing) == len(media):
        raise FileNotFoundError(
            f"--videos {folder.root} has none of the {counted(len(media), 'video')} of "
            f"{', '.join(plan.suite.name for plan in plans)}, such as {missing[0]}: give the folder that has them"
        )
    if missing:
        return f"{len(missing):,} of {counted(len(media), 'video')} are missing in {folder.root}, such as {missing[0]}"
    return None


def _pinned(suites: str | list[str], options: RunOptions, out: Path) -> RunOptions:
    """Return the options with the dataset commit of earlier results in `out`, since the Hub may have a newer one."""
    if options.annotations is not None or options.dataset_revision is not None:
        return options
    for name in suite_names(suites):
        for file in (out / f"{name}.jsonl", *sorted((out / PARTS).glob(f"{name}.*.jsonl"))):
            rows = _read_tolerant(file)
            if rows is not None and name in SUITES and rows.header.dataset == SUITES[name].dataset:
                return replace(options, dataset_revision=rows.header.dataset_revision)
    return options


def _load(source: ModelSource, rank: int, n_processes: int, say: Say) -> tuple[Any, Any]:
    import torch

    from livecc_hf.checkpoints.loading import load_model_and_processor

    device = source.device
    if device is None and n_processes > 1 and torch.cuda.is_available():
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', rank)) % torch.cuda.device_count()}"
    model, processor, info = load_model_and_processor(
        source.name, device, source.dtype, source.load_in_4bit, source.position_scheme, source.base, source.merge
    )
    for note in info.notes:
        say(note)
    return model.eval(), processor


def _units(plans: list[Plan]) -> Iterator[_Unit]:
    """Group rows by clip, in the order of the first plan's rows."""
    groups: dict[Any, list[tuple[int, Task]]] = {}
    for number, plan in enumerate(plans):
        for task in plan.tasks:
            key: Any = task.row.key
            if isinstance(task, Question):
                key = (task.media[0], task.start_s, task.end_s, task.frames, task.system)
            groups.setdefault(key, []).append((number, task))
    for tasks in groups.values():
        yield _Unit(media_of(tasks[0][1]), tasks)


class _Runner:
    """The work of one process of a run."""

    def __init__(
        self,
        model: LiveCCForConditionalGeneration,
        processor: StreamingProcessor,
        plans: list[Plan],
        options: RunOptions,
        source: ModelSource,
        folder: VideoFolder,
        out: Path,
        rank: int,
    ):
        self.model, self.processor, self.plans, self.options = model, processor, plans, options
        self._is_4bit = source.load_in_4bit
        self.folder, self.out, self.rank = folder, out, rank
        revision, name = model_revision(source.name), model_name(source.name)
        processor_name = model_name(source.base) if source.base else name
        self.headers = [plan.header(options, name, revision, processor_name, self._generation(plan)) for plan in plans]
        self.headers = [replace(header, device=str(model.device)) for header in self.headers]
        self._known = [self._read_known(number) for number in range(len(plans))]

    def _generation(self, plan: Plan) -> dict[str, Any]:
        common = {
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "position_scheme": self.model.config.position_scheme,
        } | ({"load_in_4bit": True} if self._is_4bit else {})
        if plan.suite.layout == "commentary":
            return common | {"query_form": self.options.query_form} | self._commentator(plan.protocol).settings()
        by_logits = any(isinstance(task, Question) and task.candidates for task in plan.tasks[:1])
        return common | ({"answer": "option logits"} if by_logits else {"do_sample": False, "max_new_tokens": 128})

    def _commentator(self, protocol: str) -> Commentator:
        from .commentary import Commentator

        options = self.options
        return Commentator(self.model, self.processor, protocol, options.query_form, options.stream_options)

    def _file(self, number: int) -> Path:
        return self.out / f"{self.plans[number].suite.name}.jsonl"

    def _parts(self, number: int) -> list[Path]:
        return sorted((self.out / PARTS).glob(f"{self.plans[number].suite.name}.*.jsonl"))

    def _read_known(self, number: int) -> dict[str, Result]:
        """Return the rows with an answer in the files of this run and earlier ones, by key."""
        return {key: row for key, row in self._read_all(number).items() if row.error is None}

    def _read_all(self, number: int) -> dict[str, Result]:
        """Return the rows in the files of this run and earlier ones, by key, preferring rows with an answer."""
        known: dict[str, Result] = {}
        files = [self._file(number), *self._parts(number)]
        for file in files:
            rows = _read_tolerant(file)
            if rows is not None and rows.rows:
                rows.header.check_same(self.headers[number], file)
                results = [row for row in rows.rows if not isinstance(row, VerdictRow)]
                known |= {row.key: row for row in results if row.error is None or row.key not in known}
        return known

    def check(self) -> None:
        """Check, before any video is read, that all candidates are single, distinct tokens.

        Raises:
            CandidateError: (a ValueError) if they are not.
        """
        from .shared_vision import candidate_ids

        questions = [task for plan in self.plans for task in plan.tasks if isinstance(task, Question)]
        for candidates, lead in {(task.candidates, task.candidate_lead) for task in questions if task.candidates}:
            candidate_ids(self.processor.tokenizer, candidates, lead)

    def work(self, units: list[_Unit], say: Say) -> None:
        """Ask the questions that have no answer yet, and write the answers to this process's files."""
        todo = [
            (unit, [(number, task) for number, task in unit.tasks if task.row.key not in self._known[number]])
            for unit in units
        ]
        total = sum(len(unit.tasks) for unit in units)
        progress = RowProgress(total, total - sum(len(tasks) for _, tasks in todo), say)
        files = [RowFile(self._part(number), header) for number, header in enumerate(self.headers)]
        failed = [self._failed_file(number) for number in range(len(self.headers))]
        try:
            for unit, tasks in todo:
                if not tasks:
                    continue
                for number, row in self._results(unit, tasks):
                    (files if row.error is None else failed)[number].append(row)
                    if row.error is not None:
                        say(f"no answer: {row.key}: {row.error}")
                    progress.add()
        finally:
            for file in (*files, *failed):
                file.close()
        progress.end()

    def _part(self, number: int) -> Path:
        return self.out / PARTS / f"{self.plans[number].suite.name}.{self.rank}.jsonl"

    def _failed_file(self, number: int) -> RowFile:
        """Open an empty file for the rows without an answer; those of earlier runs are asked again."""
        path = self._part(number).with_suffix(".failed.jsonl")
        path.unlink(missing_ok=True)
        return RowFile(path, self.headers[number])

    def _results(self, unit: _Unit, tasks: list[tuple[int, Task]]) -> Iterator[tuple[int, Result]]:
        """Yield the result row of each task of a clip, with the number of its plan."""
        path = self.folder.find(unit.media)
        if path is None:
            for number, task in tasks:
                yield number, replace(task.row, error=f"video {unit.media[0]} is missing")
            return
        for number, task in tasks:
            if isinstance(task, SportsEvent):
                yield number, self._comment(task, path, self.plans[number].protocol)
        if questions := [(number, task) for number, task in tasks if isinstance(task, Question)]:
            yield from self._answer(questions, path)

    def _comment(self, event: SportsEvent, path: Path, protocol: str) -> CommentaryRow:
        try:
            rule = FrameRule(max_pixels=self.options.max_pixels)
            return self._commentator(protocol).comment(event, path, rule)
        except (ValueError, OSError) as error:
            return replace(event.row, error=one_line(error))
        except RuntimeError as error:
            if "finite" not in str(error):  # other runtime errors, such as of CUDA, are not about this row
                raise
            return replace(event.row, error=one_line(error))

    def _answer(self, tasks: list[tuple[int, Question]], path: Path) -> Iterator[tuple[int, Result]]:
        from .commentary import read_for
        from .shared_vision import SharedVision

        first = tasks[0][1]
        try:
            clip = read_for(self.processor, path, first.start_s, first.end_s, first.frames)
        except (ValueError, OSError) as error:
            for number, task in tasks:
                yield number, replace(task.row, error=one_line(error))
            return
        vision = SharedVision(self.model, self.processor, clip.frames, first.system, clip.appears_s)
        for number, task in tasks:
            yield number, _ask(vision, task, clip.times_s)

    def merge(self, is_main: bool) -> RunResult:
        """Merge the rows of all processes into one file per benchmark, in the benchmark's order."""
        result = RunResult()
        if not is_main:
            wait_for_all()  # until the main process has written the merged files
        for number, plan in enumerate(self.plans):
            rows = self._read_all(number)
            merged = [rows.get(task.row.key) or replace(task.row, error="not asked") for task in plan.tasks]
            result.files.append(self._file(number))
            result.n_rows += len(merged)
            result.n_done += sum(row.error is None for row in merged)
            result.failures |= {(plan.suite.name, row.key): row.error for row in merged if row.error is not None}
            if is_main:
                asked = {row.key for row in merged}
                beyond_limit = [row for key, row in rows.items() if key not in asked]  # of earlier runs
                write_rows(self._file(number), self.headers[number], merged + beyond_limit)
        if is_main:
            for number in range(len(self.plans)):
                for part in self._parts(number):
                    part.unlink()
            wait_for_all()
        return result


def _ask(vision: SharedVision, task: Question, times_s: list[float]) -> ChoiceRow:
    """Return the row of a question with the model's answer, or with the reason why there is none."""
    text = task.text(times_s)
    try:
        if task.candidates:
            choice = vision.choose(text, task.answer_prefix, task.candidates, task.candidate_lead)
            if choice is not None:
                probabilities = {name: round(value, 6) for name, value in choice.probabilities.items()}
                return replace(task.row, response=choice.answer, probabilities=probabilities)
        else:
            said = vision.generate(text, task.answer_prefix, task.max_new_tokens)
            if said is not None:
                return replace(task.row, response=task.response_prefix + said)
    except ValueError as error:  # control tokens in the text
        return replace(task.row, error=one_line(error))
    return replace(task.row, error="the model's logits are not finite")


def _read_tolerant(file: Path) -> RowSet[Row] | None:
    """Read a file of rows; `None` if it does not exist, its process just removed it, or its header is incomplete."""
    try:
        if b"\n" not in file.read_bytes()[:100_000]:
            return None
        return read_rows(file)
    except FileNotFoundError:
        return None
