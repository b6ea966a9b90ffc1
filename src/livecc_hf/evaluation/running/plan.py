"""Plans a run: which rows are asked, and the header of their file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from livecc_hf.utils.counts import check_counts

from ..predictions.header import Header
from ..prompt_files import Prompts
from ..suites import Suite, suite_of
from ..tasks.annotations import Annotations, check_revision, read_annotations
from ..tasks.livesports_cc import INSTRUCT
from ..tasks.questions import FrameRule, Question
from ..tasks.readers import SUBTITLES, Task, prompts_of, read_tasks
from ..tasks.videomme import check_subtitles

_BLOCKS, _BLOCK_BYTES = 1024, 4096  # of a file of weights, spread evenly: all of it up to 4 MiB


@dataclass(frozen=True)
class RunOptions:
    """Options of running a benchmark on a model.

    Attributes:
        protocol: a protocol of the benchmark (see `livecc evaluate list`); default: the first one.
        limit: run only the first `limit` rows.
        annotations: file or folder with the benchmark's rows; default: the rows on the Hub.
        dataset_revision: revision of the rows on the Hub; default: see `read_annotations`.
        subtitles: folder of Video-MME's VIDEO.srt files.
        query_form: for commentary, "instruct", or "base" for a model that was not trained on instructions.
        max_pixels: largest number of pixels of a frame; overrides the protocol's.
        stream_options: for commentary, options of `start_stream` that override the protocol's.
    """

    protocol: str | None = None
    limit: int | None = None
    annotations: str | os.PathLike | None = None
    dataset_revision: str | None = None
    subtitles: str | os.PathLike | None = None
    query_form: str = INSTRUCT
    max_pixels: int | None = None
    stream_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_counts(self, "limit", "max_pixels")
        check_revision(self.annotations, self.dataset_revision)


@dataclass(frozen=True)
class Plan:
    """The rows of one benchmark to run.

    Attributes:
        suite: the benchmark.
        protocol: the protocol of the run.
        tasks: the questions or events to run, in the benchmark's order.
        n_rows: rows of the whole benchmark, which can be more than `tasks`.
        annotations: the rows as published, with their source.
        prompts: the protocol's prompts.
        subtitles: a hash of the subtitles in all of the benchmark's prompts; `None` if it has none.
    """

    suite: Suite
    protocol: str
    tasks: Sequence[Task]
    n_rows: int
    annotations: Annotations
    prompts: Prompts
    subtitles: str | None = None

    def header(
        self, options: RunOptions, model: str, revision: str, processor: str, generation: dict[str, Any]
    ) -> Header:
        """Return the header of the result file.

        Args:
            options: options of the run.
            model: name of the model.
            revision: revision of the model.
            processor: name of the processor.
            generation: generation settings.
        """
        rules = [task.frames for task in self.tasks if isinstance(task, Question)] or [FrameRule()]
        rule = asdict(rules[0])
        return Header(
            layout=self.suite.layout,
            suite=self.suite.name,
            protocol=self.protocol,
            model=model,
            model_revision=revision,
            processor=processor,
            dataset=self.annotations.source,
            dataset_revision=self.annotations.revision,
            prompt_hash=self.prompts.hash,
            frames={name: rule[name] for name in ("fps", "min_frames", "max_frames", "n_frames")},
            pixels={"max_pixels": rule["max_pixels"] or options.max_pixels},
            generation=generation | ({} if self.subtitles is None else {"subtitles": self.subtitles}),
            n_rows=self.n_rows,
            limit=options.limit,
        )


def suite_names(suites: str | Sequence[str]) -> list[str]:
    """Return the names of benchmarks, given as a list or separated by commas."""
    return [name.strip() for name in (suites.split(",") if isinstance(suites, str) else suites)]


def make_plans(suites: str | Sequence[str], options: RunOptions) -> list[Plan]:
    """Return the plan of each benchmark of a run.

    Args:
        suites: a benchmark's name, or several that share their videos, such as `videomme,videomme-subtitles`.
        options: options of the run.

    Raises:
        ValueError: if a benchmark or protocol is unknown, the benchmarks do not share their videos, or the rows are not
            in the published format.
        FileNotFoundError: if a file or folder is missing.
    """
    chosen = [suite_of(name) for name in suite_names(suites)]
    if len({suite.dataset for suite in chosen}) > 1 or len({suite.layout for suite in chosen}) > 1:
        names = ", ".join(suite.name for suite in chosen)
        raise ValueError(f"{names} are not about the same videos: run them one by one")
    _check_options(chosen, options)
    return [_plan(suite, options) for suite in chosen]


def _check_options(suites: Sequence[Suite], options: RunOptions) -> None:
    """Raise an error if an option is missing, or given although none of the benchmarks uses it."""
    if any(suite.name == SUBTITLES for suite in suites):
        check_subtitles(options.subtitles)
    names = ", ".join(suite.name for suite in suites)
    if options.subtitles is not None and all(suite.name != SUBTITLES for suite in suites):
        raise ValueError(
            f"--subtitles {options.subtitles}: not with {names}, which does not use it; leave it out, or run "
            f"{SUBTITLES}"
        )
    if options.query_form != INSTRUCT and all(suite.layout != "commentary" for suite in suites):
        raise ValueError(f"--query-form {options.query_form}: not with {names}, which asks questions; leave it out")


def _plan(suite: Suite, options: RunOptions) -> Plan:
    if not suite.protocols:
        raise ValueError(
            f"{suite.name} cannot be run, only judged and scored: make a commentary on the videos and judge its "
            "windows (livecc evaluate judge --protocol inf-streams)"
        )
    protocol = options.protocol or suite.protocols[0]
    if protocol not in suite.protocols:
        raise ValueError(f"{suite.name} has no protocol {protocol!r}: expected {', '.join(suite.protocols)}")
    annotations = read_annotations(suite.name, suite.dataset, options.annotations, options.dataset_revision)
    every = read_tasks(suite.name, annotations, protocol, options.subtitles)
    tasks = every[: options.limit]
    if options.max_pixels is not None:
        tasks = [_with_pixels(task, options.max_pixels) for task in tasks]
    seen: set[str] = set()
    for task in tasks:
        if task.row.key in seen:
            raise ValueError(f"{annotations.source} has two rows with the key {task.row.key!r}: remove one of them")
        seen.add(task.row.key)
    prompts = prompts_of(suite.name, protocol)
    return Plan(suite, protocol, tasks, len(every), annotations, prompts, _subtitles_hash(every))


def _subtitles_hash(tasks: Sequence[Task]) -> str | None:
    """Return a hash of the lines of all questions with subtitles; `None` if there are none."""
    lines = {task.media: task.subtitles for task in tasks if isinstance(task, Question) and task.subtitles is not None}
    return hashlib.sha256(repr(sorted(lines.items())).encode()).hexdigest()[:16] if lines else None


def _with_pixels(task: Task, max_pixels: int) -> Task:
    if isinstance(task, Question):
        return replace(task, frames=replace(task.frames, max_pixels=max_pixels))
    return task


def media_of(task: Task) -> tuple[str, ...]:
    """Return the possible names of a row's video in the folder of videos."""
    return task.media if isinstance(task, Question) else (task.media,)


def model_name(name: str | os.PathLike) -> str:
    """Return a model's name for headers: its Hub id, or the name of its folder without the local path."""
    folder = Path(name).expanduser()
    return folder.resolve().name if folder.is_dir() else str(name)


def model_revision(name: str | os.PathLike) -> str:
    """Return a model's revision for headers: the commit on the Hub, or a hash of a folder's configs and weights."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(str(name), "config.json")
        file = file if isinstance(file, str) else try_to_load_from_cache(str(name), "adapter_config.json")
        return Path(file).parent.name if isinstance(file, str) else ""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".jinja"):
            digest.update(file.name.encode() + file.read_bytes())
        elif file.is_file() and file.suffix in (".safetensors", ".bin"):
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            _add_weights(digest, file)
    return digest.hexdigest()[:16]


def _add_weights(digest: Any, file: Path) -> None:
    """Add parts of a file of weights to a hash: training changes them, and reading all of a large model takes long."""
    last = max(file.stat().st_size - _BLOCK_BYTES, 0)
    with file.open("rb") as opened:
        for place in sorted({last * number // (_BLOCKS - 1) for number in range(_BLOCKS)}):
            opened.seek(place)
            digest.update(opened.read(_BLOCK_BYTES))
