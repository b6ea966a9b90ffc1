"""The stage `prompt`: a language model judges the speech of clips and writes the query that a user might have asked."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from ...endpoints.answer_cache import AnswerCache
from ...endpoints.chat import ChatEndpoint, EndpointError, RetryLimits
from ...endpoints.failures import EndpointFailures
from ...utils.counts import check_counts
from ..columns import spoken_texts, texts, with_column
from ..watchdog import items_done
from .base import StageResult, split
from .model import ModelStage

_MAX_QUERY_CHARACTERS = 400
_EASY_SPEECH = "He passes the ball to the left, and it goes wide of the goal."
# For each condition: its key in an answer, the value with which a clip is kept, and the reason to drop it otherwise.
CONDITIONS = (
    ("describes_video", True, "not_about_video"),
    ("personal", False, "personal"),
    ("conversation", False, "conversation"),
    ("garbled", False, "garbled"),
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "boolean"} for name, _, _ in CONDITIONS} | {"query": {"type": "string"}},
    "required": [*(name for name, _, _ in CONDITIONS), "query"],
    "additionalProperties": False,
}
_INSTRUCTIONS = """\
You select training data for a model that comments on videos while they play. You are given the title of a video and \
what is said in a clip of it, and you answer with one JSON object and nothing else:
{"describes_video": true or false, "personal": true or false, "conversation": true or false, \
"garbled": true or false, "query": "..."}

describes_video: the speech comments in real time on what can be seen in the video as it happens.
personal: the speaker shares personal experiences or feelings.
conversation: several people talk with each other.
garbled: the text is garbled, cut up, or makes no sense.
query: a short request, in the words of a user who has not seen the video, that would lead to such a commentary. Keep \
it generic: it names the kind of commentary and maybe the topic, and gives away nothing that happens or is said in the \
clip. Write "" if describes_video is false, or one of the others is true."""


class Verdict(NamedTuple):
    """The model's judgement of a clip.

    Attributes:
        reasons: the reasons to drop the clip; empty if it is kept.
        query: the request that a user might have made; "" if the clip is dropped.
    """

    reasons: list[str]
    query: str


class _Loaded(NamedTuple):
    endpoint: ChatEndpoint
    cache: AnswerCache


@dataclass(frozen=True)
class Prompt(ModelStage):
    """Keeps clips whose speech comments on what the video shows, and fills `query`.

    A language model behind any endpoint with OpenAI's chat completions protocol (vLLM, TGI, llama.cpp, a provider)
    judges four conditions in one answer: the speech comments in real time on what the video shows; it shares no
    personal experiences or feelings; it is not a conversation of several people; it is not garbled. For a clip that
    meets all four, the model writes a generic query that would lead to such commentary without revealing its content.

    Answers are checked JSON; an invalid answer is sent back to the model with the error. Failed calls are retried a
    limited number of times, after the wait that the endpoint asks for. `cache` keeps answers by model and prompt.

    Dropped: `not_about_video`, `personal`, `conversation`, `garbled` (the first that applies; detail: all that apply),
    `error` (no usable answer; detail: the last error). If the endpoint itself fails, the run stops instead: see
    `__call__`.

    The conditions are those of the LiveCC paper (arXiv 2504.16030, section 3, SFT data).
    """

    name: ClassVar[str] = "prompt"
    takes: ClassVar[str] = "clips"
    batch_rows: ClassVar[int] = 256

    model: str = field(default="", metadata={"help": "The model's name at the endpoint; required."})
    base_url: str = field(
        default="http://localhost:8000/v1",
        metadata={"help": "URL of an OpenAI-compatible endpoint (default: that of a local `vllm serve`)."},
    )
    api_key_env: str = field(
        default="OPENAI_API_KEY",
        metadata={"help": "Environment variable with the API key, which is sent if it is set."},
    )
    cache: str | None = field(
        default=None,
        metadata={"help": "File on a local disk for the answers, so that a continued run does not ask again."},
    )
    concurrency: int = field(default=16, metadata={"help": "Concurrent calls of each process."})
    timeout_s: float = field(default=120.0, metadata={"help": "Longest wait for an answer, in seconds."})
    max_attempts: int = field(default=5, metadata={"help": "Attempts of a call if the endpoint fails."})
    max_wait_s: float = field(
        default=60.0,
        metadata={"help": "Longest wait between attempts, in seconds, even if Retry-After asks for more."},
    )
    max_answers: int = field(default=3, metadata={"help": "Drop a clip after this many unusable answers."})
    give_up_after: int = field(default=20, metadata={"help": "Stop the run after this many failed clips in a row."})

    def __post_init__(self):
        if not self.model:
            raise ValueError("prompt.model is not given: set it to the model's name at the endpoint prompt.base_url")
        check_counts(self, "concurrency", "max_answers", "give_up_after")
        self._limits()

    def load(self) -> _Loaded:
        """Return the endpoint and the cache; the endpoint is not called yet.

        Raises:
            ImportError: if httpx2 is not installed.
            ValueError: if the URL or the cache file cannot be used.
        """
        key = os.environ.get(self.api_key_env) or None
        return _Loaded(ChatEndpoint(self.base_url, self.model, SCHEMA, key, self._limits()), AnswerCache(self.cache))

    def _limits(self) -> RetryLimits:
        return RetryLimits(self.timeout_s, self.max_attempts, self.max_wait_s)

    def __call__(self, batch: pa.Table) -> StageResult:
        """Judge the clips of a batch in `CLIP_SCHEMA`.

        Raises:
            EndpointError: if the endpoint refuses the key or the model, if it fails on a clip and then on an easy test
                question, or if `give_up_after` clips in a row got no usable answer. Answers so far are in the cache.
            OSError: if the cache cannot be written.
        """
        self.open()
        outcomes = self.judge(spoken_texts(batch), texts(batch, "title"))
        reasons = np.full(len(batch), None, dtype=object)
        details: list[str | None] = [None] * len(batch)
        queries: list[str | None] = [None] * len(batch)
        for i, outcome in enumerate(outcomes):
            if isinstance(outcome, str):
                reasons[i], details[i] = "error", outcome
            elif outcome.reasons:
                reasons[i], details[i] = outcome.reasons[0], ", ".join(outcome.reasons)
            else:
                queries[i] = outcome.query
        scored = with_column(batch, "query", pa.array(queries, pa.string()))
        return split(self.name, scored, reasons, details=details)

    def judge(self, spoken: list[str], titles: list[str]) -> list[Verdict | str]:
        """Return the verdict on each clip, or the error as text.

        Args:
            spoken: the speech of each clip.
            titles: the title of each clip's video, or "".

        Raises:
            EndpointError, OSError: see `__call__`.
        """
        failures = EndpointFailures(self.give_up_after)
        outcomes: list[Verdict | EndpointError | str] = ["the clip has no words"] * len(spoken)
        waiting = [i for i, text in enumerate(spoken) if text.strip()]
        for _ in range(2):
            answers = self._ask_all([(spoken[i], titles[i]) for i in waiting], failures)
            for i, answer in zip(waiting, answers, strict=True):
                outcomes[i] = answer
            if failures.fatal is not None:
                raise failures.fatal
            if failures.stop.is_set():
                raise self._stopped(failures)
            waiting = [i for i in waiting if isinstance(found := outcomes[i], EndpointError) and found.is_down]
            if not waiting:
                break
            # An outage must not drop clips, not even the last ones of a unit, so they are asked once more.
            self._check_is_up(failures)
        return [str(outcome) if isinstance(outcome, EndpointError) else outcome for outcome in outcomes]

    def _ask_all(self, clips: list[tuple[str, str]], failures: EndpointFailures) -> list[Verdict | EndpointError]:
        """Return the verdict on each clip (speech, title), or the error."""

        def ask(clip: tuple[str, str]) -> Verdict | EndpointError:
            if failures.stop.is_set():
                return EndpointError("not asked: the stage has stopped")
            try:
                verdict = self._verdict(_messages(*clip), failures)
                items_done()
                return verdict
            except EndpointError as error:
                failures.add(error)
                return error
            except BaseException:
                failures.stop.set()  # queued calls are not made
                raise

        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                return list(pool.map(ask, clips))
            except BaseException:
                failures.stop.set()
                raise

    def _check_is_up(self, failures: EndpointFailures) -> None:
        """Raise an EndpointError if the endpoint does not answer an easy clip either; any answer will do."""
        try:
            self.loaded.endpoint.ask(_messages(_EASY_SPEECH, ""))
        except EndpointError as error:
            if error.is_down:
                raise self._stopped(failures) from error

    def _stopped(self, failures: EndpointFailures) -> EndpointError:
        """Return the error that ends the run: no clip of the batch is dropped, and answers stay in the cache."""
        return EndpointError(
            f"the prompt stage stops: {failures.n_failed} clips in this batch got no usable answer from "
            f"{self.base_url}, the last because {failures.last}. Check the endpoint and the model, and run the command "
            "again: with a cache, no answer is asked for twice",
            is_down=True,
        )

    def _verdict(self, messages: list[dict[str, str]], failures: EndpointFailures) -> Verdict:
        endpoint, cache = self.loaded
        key = AnswerCache.key(self.model, messages, SCHEMA)
        known = cache.get(key)
        if known is not None:
            return verdict_of(known)
        conversation, wrong = messages, ""
        for _ in range(self.max_answers):
            text = endpoint.ask(conversation, failures.stop)
            try:
                answer = read_answer(text)
            except ValueError as error:
                wrong = str(error)
                conversation = [
                    *messages,
                    {"role": "assistant", "content": text[:2000]},
                    {"role": "user", "content": f"That is not usable: {wrong}. Answer with the JSON object alone."},
                ]
                continue
            failures.reset()
            cache.put(key, answer)
            return verdict_of(answer)
        raise EndpointError(f"no usable answer from {self.model!r} in {self.max_answers} attempts: {wrong}")


def read_answer(text: str) -> dict[str, Any]:
    """Return the first valid answer in a model's text, ignoring text around it such as thoughts and code fences.

    Raises:
        ValueError: if no JSON object in the text fits `SCHEMA`; the message is written for the model.
    """
    decoder = json.JSONDecoder()
    wrong, at = "there is no JSON object in it", text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            problem = _problem(value)
            if problem is None:
                return {name: value[name] for name in SCHEMA["properties"]} | {
                    "query": " ".join(value["query"].split())
                }
            wrong = problem
        at = text.find("{", end)
    raise ValueError(f"{wrong} ({' '.join(text.split())[:200]!r})")


def verdict_of(answer: dict[str, Any]) -> Verdict:
    """Return the verdict of an answer that fits `SCHEMA`."""
    return Verdict([reason for name, wanted, reason in CONDITIONS if answer[name] is not wanted], answer["query"])


def _problem(value: Any) -> str | None:
    """Return why a JSON object does not fit `SCHEMA`; `None` if it does."""
    for name, _, _ in CONDITIONS:
        if not isinstance(value.get(name), bool):
            return f"{name!r} is {value.get(name)!r}, expected true or false"
    query = value.get("query")
    if not isinstance(query, str):
        return f"'query' is {query!r}, expected a text"
    if not query.strip() and not verdict_of(value).reasons:
        return "'query' is empty, expected a request, as the clip is kept"
    if len(query) > _MAX_QUERY_CHARACTERS:
        return f"'query' has {len(query)} characters, expected {_MAX_QUERY_CHARACTERS} at most"
    return None


def _messages(text: str, title: str) -> list[dict[str, str]]:
    clip = f"Title: {title or '(none)'}\n\nSpeech:\n{text}"
    return [{"role": "system", "content": _INSTRUCTIONS}, {"role": "user", "content": clip}]
