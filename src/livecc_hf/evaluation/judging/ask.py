"""Asks a judge about every row in both orders, and writes each verdict to disk as it arrives."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from livecc_hf.endpoints.answer_cache import AnswerCache
from livecc_hf.endpoints.chat import ChatEndpoint, EndpointError, RetryLimits
from livecc_hf.endpoints.failures import EndpointFailures
from livecc_hf.utils.counts import check_counts
from livecc_hf.utils.one_run import only_run
from livecc_hf.utils.reports import Say, say_to_stderr
from livecc_hf.utils.text import counted

from ..predictions.file import RowFile, RowSet
from ..predictions.header import Header
from ..predictions.inf_streams import cut_into_windows, read_references, reference_text
from ..predictions.published import read_commentary_file
from ..predictions.rows import ORDERS, CommentaryRow, VerdictRow, text_hash
from ..progress import RowProgress
from ..suites import suite_of
from ..tasks.annotations import check_revision, read_annotations, revision_of
from ..tasks.livesports_cc import read_events
from .prompt import INF_STREAMS, LIVESPORTS, JudgeProtocol, judge_protocol


@dataclass(frozen=True)
class JudgeOptions:
    """Options of a judge.

    Attributes:
        model: the judge's name at the endpoint.
        base_url: base URL of an OpenAI-compatible endpoint.
        api_key_env: environment variable that holds the API key.
        repeat: number of times that each question is asked; 2 gives test-retest agreement.
        concurrency: number of concurrent requests.
        cache: file that keeps replies between runs; default: a hidden file next to the verdicts.
        limit: judge only the first `limit` rows.
        limits: timeouts and retries of a request.
        give_up_after: number of consecutive failures after which the run stops.
        protocol: "livecc" (LiveSports-3K's prompt) or "inf-streams" (StreamingVLM's prompt, on windows of 100 s).
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
            raise ValueError("no judge is named: give the model's name at the endpoint")
        check_counts(self, "repeat", "concurrency", "give_up_after", "limit")


@dataclass
class JudgeResult:
    """The result of judging.

    Attributes:
        out: the file of verdicts.
        n_rows: rows that have both sides' texts and a reference.
        n_asked: replies that the judge gave in this run.
        n_cached: replies taken from the cache.
        n_invalid: invalid replies in the whole file, as the protocol defines them.
        invalid_reply: one that the judge gave in this run.
        failed: requests without an answer, as pairs of the request and the reason.
        notes: remarks for the user, one line each.
    """

    out: Path
    n_rows: int = 0
    n_asked: int = 0
    n_cached: int = 0
    n_invalid: int = 0
    invalid_reply: str | None = None
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Call(NamedTuple):
    """One request to the judge."""

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
    """Let a judge compare commentaries with an opponent's, row by row and in both orders.

    A second call continues an interrupted one: finished verdicts are kept, and cached replies are not paid for again.

    Args:
        predictions: the model's commentaries.
        opponent: the commentaries to compare them with.
        out: file for the verdicts.
        options: options of the judge.
        references: what people said: the rows of LiveSports-3K CC, or, for windows, a file that
            `inf_streams.read_references` reads. Default: the references in the predictions; for LiveSports-3K CC
            without them, the rows on the Hub.
        revision: revision of the benchmark on the Hub; default: the one recorded in the predictions.
        say: called with each progress line.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if a file is not in a known format, there is no row to judge, or `out` holds verdicts on other
            texts.
        EndpointError: if the judge refuses the key or the model, or fails too many times in a row. Finished verdicts
            are kept.
    """
    check_revision(references, revision)
    model_rows, opponent_rows = read_commentary_file(predictions), read_commentary_file(opponent)
    if options.protocol == INF_STREAMS:
        if revision is not None:
            raise ValueError(
                f"--dataset-revision {revision}: not with --protocol {INF_STREAMS}, which reads no dataset"
            )
        given = None if references is None else read_references(references)
        model_rows, opponent_rows = (cut_into_windows(rows, given) for rows in (model_rows, opponent_rows))
        texts = {row.key: reference_text(row.reference) for row in model_rows.rows}
        source, dataset_revision = model_rows.header.dataset, model_rows.header.dataset_revision
        if references is not None:
            source, dataset_revision = Path(references).name, revision_of([Path(references).expanduser()])
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
        with only_run(result.out, "file"), RowFile(result.out, header) as file:
            kept = [row for row in file.rows if isinstance(row, VerdictRow)]
            _check_hashes(kept, calls, result.out)
            _judge_all([call for call in calls if _row_id(call) not in file], len(calls), asker, file, result, say)
    finally:
        asker.close()
    result.n_invalid += sum(not row.is_valid for row in kept)
    invalid = next((row.reply for row in kept if not row.is_valid), None) or result.invalid_reply
    if result.n_invalid:
        result.notes.append(f"{counted(result.n_invalid, 'reply is', 'replies are')} invalid, such as {invalid!r:.80}")
    return result


def _header(model: Header, opponent: Header, options: JudgeOptions) -> Header:
    """Return the header of the verdict file; `judge` adds where the references are from."""
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
    """Return what people said by row key, and the source and revision of these references."""
    if path is None:
        own = {row.key: " ".join(span.text for span in row.reference) for row in rows.rows if row.reference}
        if own and revision is not None:
            raise ValueError(
                f"--dataset-revision {revision}: not with predictions that hold their own references; leave it out"
            )
        if own:
            return own, rows.header.dataset, rows.header.dataset_revision
    suite = suite_of(rows.header.suite)
    if path is None and rows.header.dataset == suite.dataset:
        revision = revision or rows.header.dataset_revision
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
    """Yield the requests of a run; set the number of rows and add notes to `result`."""
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
    missing = [key for key in chosen if key not in ours or key not in theirs]
    if missing:
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


def _check_hashes(rows: Sequence[VerdictRow], calls: Sequence[_Call], out: Path) -> None:
    """Raise `ValueError` if verdicts already in the file are about other texts than the current ones."""
    hashes = {call.key: (text_hash(call.model_text), text_hash(call.opponent_text)) for call in calls}
    wrong = [row.key for row in rows if row.key in hashes and (row.model_hash, row.opponent_hash) != hashes[row.key]]
    if wrong:
        raise ValueError(
            f"{out} holds verdicts on other texts, for example for {wrong[0]!r}: the commentaries have changed; "
            "choose another file for the new verdicts"
        )


class _Asker:
    """Gets verdicts from the judge or the reply cache; thread-safe.

    Args:
        options: options of the judge.
        protocol: how it is asked.
        out: the file of verdicts; the default cache is next to it.

    Attributes:
        options: options of the judge.
        failures: the failed requests; once its `stop` is set, waiting requests end and no new one is sent.
    """

    def __init__(self, options: JudgeOptions, protocol: JudgeProtocol, out: Path):
        key = os.environ.get(options.api_key_env) or None
        self.options = options
        self.failures = EndpointFailures(options.give_up_after)
        self._protocol = protocol
        self._endpoint = ChatEndpoint(
            options.base_url, options.model, None, key, options.limits, seed=protocol.seed, extra="evaluate"
        )
        self._cache = AnswerCache(options.cache or out.with_name(f".{out.stem}.answers.sqlite"))

    def ask(self, call: _Call) -> tuple[VerdictRow, bool]:
        """Return the verdict, and whether its reply was in the cache.

        Raises:
            EndpointError: if the judge does not answer.
        """
        messages = self._protocol.messages(call.order, call.model_text, call.opponent_text, call.reference)
        key = AnswerCache.key(self.options.model, messages, self._protocol.seed, call.repeat)
        reply: str | None = self._cache.get(key)
        is_cached = reply is not None
        if reply is None:
            if self.failures.stop.is_set():
                raise EndpointError("not asked: the run has stopped")
            reply = self._endpoint.ask(messages, self.failures.stop)
            self._cache.put(key, reply)
        winner, is_valid = self._protocol.read(call.order, reply)
        row = VerdictRow(
            *(call.key, call.video, call.order, winner, call.repeat, is_valid, reply),
            model_hash=text_hash(call.model_text),
            opponent_hash=text_hash(call.opponent_text),
        )
        return row, is_cached

    def close(self) -> None:
        """Close the connection and the cache."""
        self._endpoint.close()
        self._cache.close()


def _judge_all(calls: list[_Call], n_total: int, asker: _Asker, file: RowFile, result: JudgeResult, say: Say) -> None:
    """Send all requests, at most twice `concurrency` submitted at a time, and write each verdict as it arrives."""
    progress = RowProgress(n_total, n_total - len(calls), say)
    waiting = deque(calls)
    running: dict[Future, _Call] = {}
    failures = asker.failures
    with ThreadPoolExecutor(asker.options.concurrency) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < 2 * asker.options.concurrency:
                    call = waiting.popleft()
                    running[pool.submit(asker.ask, call)] = call
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    call = running.pop(future)
                    try:
                        row, is_cached = future.result()
                    except EndpointError as error:
                        failures.add(error)
                        result.failed.append((f"{call.key} {call.order}", str(error)))
                        if failures.stop.is_set():
                            raise _judge_failed(error, file, result) from error
                        continue
                    failures.reset()
                    file.append(row)
                    result.n_cached += is_cached
                    result.n_asked += not is_cached
                    if not row.is_valid:
                        result.n_invalid += 1
                        result.invalid_reply = row.reply
                    progress.add()
        except BaseException as error:
            failures.stop.set()
            for future in running:
                future.cancel()
            n_asked = sum(future.running() for future in running)
            if isinstance(error, KeyboardInterrupt) and n_asked:
                limit = f"{asker.options.limits.timeout_s:g} s at most"
                say(
                    f"waiting for {counted(n_asked, 'reply', 'replies')}, {limit}: the next run has them from the cache"
                )
            raise
    progress.end()


def _judge_failed(error: EndpointError, file: RowFile, result: JudgeResult) -> EndpointError:
    n = len(file.rows) + result.n_asked + result.n_cached
    return EndpointError(
        f"the judge does not answer: {error}. {n:,} verdicts are kept in {file.path}; run the same command again to "
        "continue",
        is_fatal=error.is_fatal,
        is_down=True,
    )
