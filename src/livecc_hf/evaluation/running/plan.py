"""Plans a run: the benchmark's rows, the videos they need, and the header of their file."""

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
from ..tasks.annotations import Annotations, read_annotations
from ..tasks.livesports_cc import INSTRUCT
from ..tasks.questions import FrameRule, Question
from ..tasks.readers import Task, prompts_of, read_tasks


@dataclass(frozen=True)
class RunOptions:
    """Options of running a benchmark on a model.

    Attributes:
        protocol: see `livecc evaluate list`; default: the benchmark's first.
        limit: only the first `limit` rows.
        annotations: file or folder of the benchmark's rows; default: from the Hub.
        dataset_revision: of the rows on the Hub.
        subtitles: folder of Video-MME's VIDEO.srt files.
        query_form: of commentary: "instruct", or "base" for a model that was not trained on instructions.
        max_pixels: most pixels of a frame; overrides the protocol's.
        stream_options: of commentary: options of `start_stream`; override the protocol's.
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
        check_counts(self, "limit")


@dataclass(frozen=True)
class Plan:
    """The rows of one benchmark to run.

    Attributes:
        suite: the benchmark.
        protocol: of the run.
        tasks: in the benchmark's order.
        n_rows: rows of the whole benchmark; `tasks` may be the first of them.
        annotations: source of the rows.
        prompts: of the protocol.
    """

    suite: Suite
    protocol: str
    tasks: Sequence[Task]
    n_rows: int
    annotations: Annotations
    prompts: Prompts

    def header(
        self, options: RunOptions, model: str, revision: str, processor: str, generation: dict[str, Any]
    ) -> Header:
        """Return the header, which records how the rows are made."""
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
            generation=generation,
            n_rows=self.n_rows,
            limit=options.limit,
        )


def make_plans(suites: str | Sequence[str], options: RunOptions) -> list[Plan]:
    """Return the plans of a run.

    Args:
        suites: a benchmark's name; or several on the same videos, such as `videomme,videomme-subtitles`.
        options: of the run.

    Raises:
        ValueError: if there is no such benchmark or protocol, several have other videos, or rows are not as published.
        FileNotFoundError: if a file or folder is missing.
    """
    names = suites.split(",") if isinstance(suites, str) else list(suites)
    chosen = [suite_of(name.strip()) for name in names]
    if len({suite.dataset for suite in chosen}) > 1 or len({suite.layout for suite in chosen}) > 1:
        raise ValueError(f"{', '.join(names)} are about other videos: run them one after the other")
    return [_plan(suite, options) for suite in chosen]


def _plan(suite: Suite, options: RunOptions) -> Plan:
    if not suite.protocols:
        raise ValueError(
            f"{suite.name} is judged and scored, not run: run the videos' commentary and judge its windows"
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
            raise ValueError(f"{annotations.source} has two rows with the key {task.row.key!r}: a row counts once")
        seen.add(task.row.key)
    return Plan(suite, protocol, tasks, len(every), annotations, prompts_of(suite.name, protocol))


def _with_pixels(task: Task, max_pixels: int) -> Task:
    if isinstance(task, Question):
        return replace(task, frames=replace(task.frames, max_pixels=max_pixels))
    return task


def media_of(task: Task) -> tuple[str, ...]:
    """Return the names under which a row's video may lie in the folder."""
    return task.media if isinstance(task, Question) else (task.media,)


def model_name(name: str | os.PathLike) -> str:
    """Return what a model is called in files: its Hub id, or its folder's name without the machine's paths."""
    folder = Path(name).expanduser()
    return folder.resolve().name if folder.is_dir() else str(name)


def model_revision(name: str | os.PathLike) -> str:
    """Return what tells a model's weights: the commit on the Hub, or a hash of a folder's configuration and sizes."""
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
    return digest.hexdigest()[:16]
