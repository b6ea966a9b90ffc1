"""Asks a language model behind an endpoint that speaks OpenAI's chat completions protocol."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ..utils.extras import require_extra

_FIRST_WAIT_S = 1.0
# Worth another try: time-outs, "too early", rate limits, and (from 500 on) a server's own trouble.
_RETRIED = frozenset({408, 409, 425, 429})
# What no other question would cure: no key, no right, no such model or path.
_FATAL = frozenset({401, 402, 403, 404, 405})
_FORMAT_WORDS = ("response_format", "json_schema", "json_object", "structured", "guided", "grammar")


class EndpointError(RuntimeError):
    """The endpoint gave no answer; the message is one line and says what it said.

    Attributes:
        is_fatal: whether it would be the same for every question.
        is_down: whether it could not be reached or failed, and not just on this question.
    """

    def __init__(self, message: str, is_fatal: bool = False, is_down: bool = False):
        super().__init__(message)
        self.is_fatal, self.is_down = is_fatal, is_down or is_fatal


@dataclass(frozen=True)
class RetryLimits:
    """How patient to be with an endpoint.

    Attributes:
        timeout_s: for one answer.
        max_attempts: tries for one answer.
        max_wait_s: longest wait between two tries, also where the endpoint asks for more (Retry-After).
    """

    timeout_s: float = 120.0
    max_attempts: int = 5
    max_wait_s: float = 60.0


class ChatEndpoint:
    """A model behind an endpoint; may be used from several threads.

    Answers are asked for as JSON of a schema where the endpoint supports it, else as any JSON, else by the prompt
    alone: what it refuses is not sent again.

    Args:
        base_url: such as `http://localhost:8000/v1`, or with `/chat/completions`.
        model: as the endpoint names it.
        schema: JSON schema of the answers; `None`: answers are free text.
        api_key: sent as a bearer token; `None`: none is sent.
        limits: how patient to be.
        max_answer_tokens: most tokens of an answer.
        seed: asked for where the endpoint takes one.
        extra: what brings httpx2 to those who ask.

    Raises:
        ImportError: if httpx2 is not installed.
        ValueError: if the address is none.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        schema: dict[str, Any] | None,
        api_key: str | None = None,
        limits: RetryLimits | None = None,
        max_answer_tokens: int = 1024,
        seed: int | None = None,
        extra: str = "data",
    ):
        require_extra(extra, "asking a chat endpoint", "httpx2")
        import httpx2

        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url is {base_url!r}: expected an address such as http://localhost:8000/v1")
        url = base_url.rstrip("/")
        self.url = url if url.endswith("/chat/completions") else f"{url}/chat/completions"
        self.model = model
        self.limits = limits or RetryLimits()
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        # Connections are limited by the number of threads that ask.
        pool = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx2.Client(timeout=self.limits.timeout_s, headers=headers, limits=pool)
        self._lock = threading.Lock()
        self._options: dict[str, Any] = {"temperature": 0, "max_tokens": max_answer_tokens}
        if schema is not None:
            json_schema = {"name": "answer", "strict": True, "schema": schema}
            self._options["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        if seed is not None:
            self._options["seed"] = seed

    def ask(self, messages: list[dict[str, str]], stop: threading.Event | None = None) -> str:
        """Return the model's answer to a conversation, trying again where that may help.

        Args:
            messages: as OpenAI's, each with `role` and `content`.
            stop: once set, nothing is waited for any more.

        Raises:
            EndpointError: if no answer came within the limits.
        """
        stop = stop or threading.Event()
        attempt = 1
        while True:
            options = self._options
            try:
                response = self._post(messages, options)
                if response.status_code < 400:
                    return _content(response)
                if self._give_way(response, options):
                    continue
                last = self._error(response)
                retry_after_s = _retry_after_s(response)
                is_worth_it = response.status_code in _RETRIED or response.status_code >= 500
            except EndpointError as error:  # not reached, or an answer in no known form
                last, retry_after_s, is_worth_it = error, None, True
            if not is_worth_it or last.is_fatal:
                raise last
            if attempt >= self.limits.max_attempts or stop.wait(self._wait_s(attempt, retry_after_s)):
                raise EndpointError(f"{last} (after {attempt} tries)", is_down=last.is_down)
            attempt += 1

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _post(self, messages, options):
        import httpx2

        try:
            return self._client.post(self.url, json={"model": self.model, "messages": messages, **options})
        except httpx2.TimeoutException as error:
            raise EndpointError(
                f"{self.url} did not answer within {self.limits.timeout_s:g} s", is_down=True
            ) from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise EndpointError(f"{self.url} is not an address: {error}", is_fatal=True) from error
        except httpx2.HTTPError as error:
            raise EndpointError(
                f"{self.url} cannot be reached: {error or type(error).__name__}", is_down=True
            ) from error

    def _error(self, response) -> EndpointError:
        said = " ".join(response.text.split())[:300]
        message = f"{self.url} answered {response.status_code} for model {self.model!r}: {said}"
        if response.status_code in _FATAL:
            return EndpointError(f"{message}; check the address, the model's name and the key", is_fatal=True)
        return EndpointError(message, is_down=response.status_code >= 500 or response.status_code in _RETRIED)

    def _give_way(self, response, options: dict[str, Any]) -> bool:
        """Leave out what the endpoint refuses; whether there is anything left to try at once."""
        if response.status_code not in (400, 422):
            return False
        said = response.text
        with self._lock:
            if self._options is not options:
                return True  # another thread has done it
            if "max_tokens" in options and "max_completion_tokens" in said:
                rest = {name: value for name, value in options.items() if name != "max_tokens"}
                self._options = rest | {"max_completion_tokens": options["max_tokens"]}
            elif "temperature" in options and "temperature" in said:
                self._options = {name: value for name, value in options.items() if name != "temperature"}
            elif "seed" in options and "seed" in said:
                self._options = {name: value for name, value in options.items() if name != "seed"}
            elif "response_format" in options and any(word in said for word in _FORMAT_WORDS):
                rest = {name: value for name, value in options.items() if name != "response_format"}
                is_schema = options["response_format"]["type"] == "json_schema"
                self._options = rest | ({"response_format": {"type": "json_object"}} if is_schema else {})
            else:
                return False
        return True

    def _wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        if retry_after_s is not None:
            return min(retry_after_s, self.limits.max_wait_s)
        # Doubled each time, and spread, so that many askers do not come back at once.
        return min(_FIRST_WAIT_S * 2 ** (attempt - 1), self.limits.max_wait_s) * random.uniform(0.5, 1.0)


def _content(response) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        said = " ".join(response.text.split())[:300]
        raise EndpointError(f"{response.url} answered with no chat completion: {said!r}", is_down=True) from error
    return content if isinstance(content, str) else ""


def _retry_after_s(response) -> float | None:
    """Return how long the Retry-After header asks to wait: it gives seconds, or a date."""
    value = response.headers.get("retry-after")
    if not value:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)
