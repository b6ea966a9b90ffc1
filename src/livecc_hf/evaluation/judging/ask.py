"""Asks a judge about every row, in both orders; what it said is on disk before anything else happens."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from livecc_hf.endpoints.answer_cache import AnswerCache
from livecc_hf.endpoints.chat import ChatEndpoint, EndpointError, RetryLimits
from livecc_hf.utils.counts import check_counts

from ..predictions.file import RowFile, RowSet
from ..predictions.header import Header
from ..predictions.inf_streams import read_references, reference_text, windows_of
from ..predictions.published import read_commentary_file
from ..predictions.rows import ORDERS, CommentaryRow, VerdictRow, text_hash
from ..progress import RowProgress, Say, say_to_stderr
from ..suites import suite_of
from ..tasks.annotations import read_annotations
from ..tasks.livesports_cc import read_events
from .prompt import INF_STREAMS, LIVESPORTS, JudgeProtocol, judge_protocol


@dataclass(frozen=True)
class JudgeOptions:
    """Which judge is asked, and how.

    Attributes:
        model: as the endpoint names it.
        base_url: address of an OpenAI-compatible endpoint.
        api_key_env: environment variable that holds the key.
        repeat: how often the same is asked; 2 gives test-retest agreement.
        concurrency: calls at the same time.
        cache: file that keeps answers over runs; `None`: beside the verdicts.
        limit: only the first so many rows.
        limits: how patient to be.
        give_up_after: failures in a row after which the run stops.
        protocol: "livecc": LiveSports-3K's; "inf-streams": StreamingVLM's, in windows of 100 s.
    """

    model: str
    base_url: str = "http://localhost:8000/v1"
    api_key_env: str = "OPENAI_API_KEY"
    repeat: int = 1
    concurrency: int = 16
    cache: str | os.PathLike | None = None
    limit: int | None = None
    limits: RetryLimits = field(default_factory=RetryLimits)
    give_up_after: int = 10
    protocol: str = LIVESPORTS

    def __post_init__(self) -> None:
        judge_protocol(self.protocol)
        if not self.model:
            raise ValueError("no judge is named: give the model as the endpoint names it")
        check_counts(self, "repeat", "concurrency", "give_up_after", "limit")


@dataclass
class JudgeResult:
    """What came of a run.

    Attributes:
        out: the file of verdicts.
        n_rows: rows that have texts of both sides and a reference.
        n_asked: replies that came from the judge now.
        n_cached: replies that were kept from earlier runs.
        n_invalid: replies that name neither or both texts, in the whole file.
        failed: calls that got no answer, with the reason.
        notes: what a user should know, one line each.
    """

    out: Path
    n_rows: int = 0
    n_asked: int = 0
    n_cached: int = 0
    n_invalid: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Call(NamedTuple):
    """One question to the judge."""

    key: str
    video: str
    order: str
    repeat: int
    model_text: str
    opponent_text: str
    reference: str


def judge(
    predictions: str | os.PathLike,
    opponent: str | os.PathLike,
    out: str | os.PathLike,
    options: JudgeOptions,
    references: str | os.PathLike | None = None,
    revision: str | None = None,
    say: Say = say_to_stderr,
) -> JudgeResult:
    """Have a judge compare commentaries with an opponent's, row by row and in both orders.

    A second call continues: a verdict is on disk before the next question, and no question is paid for twice.

    Args:
        predictions: the model's commentaries.
        opponent: the commentaries they are compared with.
        out: file for the verdicts.
        options: which judge, and how it is asked.
        references: LiveSports-3K CC's rows, which hold what people said; of windows, a file as `read_references` of
            Inf-Streams takes it. `None`: the predictions' own references where they have them, else from the Hub.
        revision: of the benchmark on the Hub; default: the one that the predictions were made of.
        say: takes a line of progress.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if a file is in no known layout, or there is no row to judge.
        EndpointError: if the judge refuses the key or the model, or fails too often in a row. Verdicts that came are
            kept.
    """
    model_rows, opponent_rows = read_commentary_file(predictions), read_commentary_file(opponent)
    if options.protocol == INF_STREAMS:
        people = None if references is None else read_references(references)
        model_rows, opponent_rows = (windows_of(rows, people) for rows in (model_rows, opponent_rows))
        texts = {row.key: reference_text(row.reference) for row in model_rows.rows}
        source = model_rows.header.dataset if references is None else Path(references).name
        dataset_revision = model_rows.header.dataset_revision if references is None else None
    else:
        texts, source, dataset_revision = _references(model_rows, references, revision)
    result = JudgeResult(Path(out))
    calls = list(_calls(model_rows, opponent_rows, texts, options, result))
    header = replace(
        _header(model_rows.header, opponent_rows.header, options),
        dataset=source,
        dataset_revision=dataset_revision,
        n_rows=len(texts),
    )
    asker = _Asker(options, judge_protocol(options.protocol), result.out)
    try:
        with RowFile(result.out, header) as file:
            kept = [row for row in file.rows if isinstance(row, VerdictRow)]
            _check_texts(kept, calls, result.out)
            _judge_all([call for call in calls if _row_id(call) not in file], len(calls), asker, file, result, say)
    finally:
        asker.close()
    result.n_invalid += sum(not row.is_valid for row in kept)
    return result


def _header(model: Header, opponent: Header, options: JudgeOptions) -> Header:
    """Return what the file of verdicts says of the texts and of the judge."""
    protocol = judge_protocol(options.protocol)
    return Header(
        layout="verdict",
        suite=suite_of(model.suite).name,
        protocol=protocol.name,
        model=model.model,
        model_revision=model.model_revision,
        opponent=opponent.model,
        judge=options.model,
        prompt_hash=protocol.prompts.hash,
        generation={"temperature": 0, "seed": protocol.seed},
        limit=options.limit,
    )


def _row_id(call: _Call) -> str:
    return VerdictRow(call.key, call.video, call.order, "tie", call.repeat).id


def _references(
    rows: RowSet[CommentaryRow], path: str | os.PathLike | None, revision: str | None
) -> tuple[dict[str, str], str | None, str | None]:
    """Return what people said by key, and where that is from."""
    if path is None:
        own = {row.key: " ".join(span.text for span in row.reference) for row in rows.rows if row.reference}
        if own:
            return own, rows.header.dataset, rows.header.dataset_revision
    suite = suite_of(rows.header.suite)
    if path is None and rows.header.dataset == suite.dataset:
        revision = revision or rows.header.dataset_revision  # of the events that the commentaries are on
    annotations = read_annotations(suite.name, suite.dataset, path, revision)
    return (
        {event.row.key: event.reference for event in read_events(annotations)},
        annotations.source,
        annotations.revision,
    )


def _calls(
    model: RowSet[CommentaryRow],
    opponent: RowSet[CommentaryRow],
    references: dict[str, str],
    options: JudgeOptions,
    result: JudgeResult,
) -> Iterator[_Call]:
    theirs = {row.key: row.pred for row in opponent.rows if row.pred is not None}
    ours = {row.key: row.pred for row in model.rows if row.pred is not None}
    videos = {row.key: row.video for row in model.rows}
    chosen = list(references)[: options.limit]
    usable = [key for key in chosen if key in ours and key in theirs]
    unknown = [key for key in videos if key not in references]
    if unknown:
        result.notes.append(
            f"{len(unknown):,} commentaries have no reference, such as {unknown[0]!r}: they are not judged"
        )
    if len(usable) < len(chosen):
        missing = [key for key in chosen if key not in usable]
        result.notes.append(
            f"{len(missing):,} of {len(chosen):,} rows lack one side's commentary, such as {missing[0]!r}, and are not "
            "judged"
        )
    if not usable:
        raise ValueError(f"no row of {model.source} has an opponent's commentary in {opponent.source} and a reference")
    result.n_rows = len(usable)
    for repeat in range(options.repeat):
        for key in usable:
            for order in ORDERS:
                yield _Call(key, videos[key], order, repeat, ours[key], theirs[key], references[key])


def _check_texts(rows: Sequence[VerdictRow], calls: Sequence[_Call], out: Path) -> None:
    """Check that verdicts that are there are of the texts at hand."""
    hashes = {call.key: (text_hash(call.model_text), text_hash(call.opponent_text)) for call in calls}
    wrong = [row.key for row in rows if row.key in hashes and (row.model_hash, row.opponent_hash) != hashes[row.key]]
    if wrong:
        raise ValueError(
            f"{out} holds verdicts on other texts, such as those on {wrong[0]!r}: the commentaries have changed; "
            "choose another file for the new verdicts"
        )


class _Asker:
    """Asks the judge, or remembers what it said; may be used from several threads."""

    def __init__(self, options: JudgeOptions, protocol: JudgeProtocol, out: Path):
        key = os.environ.get(options.api_key_env) or None
        self.options = options
        self.stop = threading.Event()
        self._protocol = protocol
        self._endpoint = ChatEndpoint(
            options.base_url, options.model, None, key, options.limits, seed=protocol.seed, extra="evaluate"
        )
        self._cache = AnswerCache(options.cache or out.with_name(f".{out.stem}.answers.sqlite"))

    def ask(self, call: _Call) -> tuple[VerdictRow, bool]:
        """Return the verdict, and whether it was kept from an earlier run.

        Raises:
            EndpointError: if no answer came.
        """
        messages = self._protocol.messages(call.order, call.model_text, call.opponent_text, call.reference)
        key = AnswerCache.key(self.options.model, messages, self._protocol.seed, call.repeat)
        reply: str | None = self._cache.get(key)
        is_kept = reply is not None
        if reply is None:
            if self.stop.is_set():
                raise EndpointError("not asked: the run has stopped")
            reply = self._endpoint.ask(messages, self.stop)
            self._cache.put(key, reply)
        winner, is_valid = self._protocol.read(call.order, reply)
        row = VerdictRow(
            *(call.key, call.video, call.order, winner, call.repeat, is_valid, reply),
            model_hash=text_hash(call.model_text),
            opponent_hash=text_hash(call.opponent_text),
        )
        return row, is_kept

    def close(self) -> None:
        self._endpoint.close()
        self._cache.close()


def _judge_all(calls: list[_Call], n_total: int, asker: _Asker, file: RowFile, result: JudgeResult, say: Say) -> None:
    """Ask all calls, a bounded number ahead; write each verdict as it comes."""
    progress = RowProgress(n_total, n_total - len(calls), say)
    waiting = deque(calls)
    running: dict[Future, _Call] = {}
    n_in_a_row = 0
    with ThreadPoolExecutor(asker.options.concurrency) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < 2 * asker.options.concurrency:
                    call = waiting.popleft()
                    running[pool.submit(asker.ask, call)] = call
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    call = running.pop(future)
                    try:
                        row, is_kept = future.result()
                    except EndpointError as error:
                        n_in_a_row += 1
                        result.failed.append((f"{call.key} {call.order}", str(error)))
                        if error.is_fatal or n_in_a_row >= asker.options.give_up_after:
                            raise _stopped(error, file, result) from error
                        continue
                    n_in_a_row = 0
                    file.append(row)
                    result.n_cached += is_kept
                    result.n_asked += not is_kept
                    result.n_invalid += not row.is_valid
                    progress.add()
        except BaseException:
            asker.stop.set()
            for future in running:
                future.cancel()
            raise
    say(progress.line())


def _stopped(error: EndpointError, file: RowFile, result: JudgeResult) -> EndpointError:
    n = len(file.rows) + result.n_asked + result.n_cached
    return EndpointError(
        f"the judge gives no answers: {error}. {n:,} verdicts are kept in {file.path}; run the same command again "
        "when it does",
        is_fatal=error.is_fatal,
        is_down=True,
    )
