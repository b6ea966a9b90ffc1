"""Client of endpoints with OpenAI's chat completions protocol."""

from __future__ import annotations

import math
import random
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ..utils.counts import check_counts
from ..utils.extras import require_extra
from ..utils.text import counted, one_line

_FIRST_WAIT_S = 1.0
_MAX_QUOTED = 300  # characters of a response in an error message
# Retried: request time-out, conflict, too early, rate limit; and all server errors (500 and above).
_RETRIED = frozenset({408, 409, 425, 429})
# The same for every question: missing key, payment or permission, unknown model or path.
_FATAL = frozenset({401, 402, 403, 404, 405})
_FORMAT_WORDS = ("response_format", "json_schema", "json_object", "structured", "guided", "grammar")


class EndpointError(RuntimeError):
    """The endpoint gave no answer; the message is one line and quotes its response.

    Attributes:
        is_fatal: whether every question would fail the same way.
        is_down: whether the endpoint was unreachable or failed, independent of the question.
    """

    def __init__(self, message: str, is_fatal: bool = False, is_down: bool = False):
        super().__init__(message)
        self.is_fatal, self.is_down = is_fatal, is_down or is_fatal


@dataclass(frozen=True)
class RetryLimits:
    """Time limits and retries of a request.

    Attributes:
        timeout_s: longest wait for one response, in seconds.
        max_attempts: attempts per question.
        max_wait_s: longest wait between two attempts in seconds, even if the endpoint asks for more (Retry-After).

    Raises:
        ValueError: if a limit is not above 0.
    """

    timeout_s: float = 120.0
    max_attempts: int = 5
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        check_counts(self, "max_attempts")
        for name in ("timeout_s", "max_wait_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: expected seconds above 0")


class ChatEndpoint:
    """A model behind an endpoint; thread-safe.

    JSON answers are requested with a schema, else as any JSON object, else by the prompt alone: request fields that the
    endpoint rejects are dropped from all later requests.

    Args:
        base_url: such as `http://localhost:8000/v1`, or with `/chat/completions`.
        model: the model's name at the endpoint.
        schema: JSON schema of the answers; `None`: answers are free text.
        api_key: sent as a bearer token; `None`: no token is sent.
        limits: time limits and retries.
        max_answer_tokens: maximum tokens of an answer.
        seed: sampling seed, if the endpoint supports one.
        extra: the extra of pyproject.toml that an error about a missing httpx2 names.

    Raises:
        MissingExtraError: if httpx2 is not installed.
        ValueError: if `base_url` is not an HTTP address.
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
        # The number of calling threads is the only limit on connections.
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
        """Return the model's answer to a conversation; temporary failures are retried.

        Args:
            messages: OpenAI's format, each with `role` and `content`.
            stop: once set, there is no further attempt.

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
                if self._drop_rejected_field(response, options):
                    continue
                last = self._error(response)
                retry_after_s = _retry_after_s(response)
                is_temporary = response.status_code in _RETRIED or response.status_code >= 500
            except EndpointError as error:  # unreachable, or a malformed response
                last, retry_after_s, is_temporary = error, None, True
            if not is_temporary or last.is_fatal:
                raise last
            if attempt >= self.limits.max_attempts or stop.wait(self._wait_s(attempt, retry_after_s)):
                raise EndpointError(f"{last} (after {counted(attempt, 'try', 'tries')})", is_down=last.is_down)
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
        said = one_line(response.text, _MAX_QUOTED)
        message = f"{self.url} answered {response.status_code} for model {self.model!r}: {said}"
        if response.status_code in _FATAL:
            return EndpointError(f"{message}; check the address, the model's name and the key", is_fatal=True)
        return EndpointError(message, is_down=response.status_code >= 500 or response.status_code in _RETRIED)

    def _drop_rejected_field(self, response, options: dict[str, Any]) -> bool:
        """Drop or weaken the request field that the endpoint rejected; return whether to retry at once."""
        if response.status_code not in (400, 422):
            return False
        said = response.text
        with self._lock:
            if self._options is not options:
                return True  # another thread has changed them meanwhile
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
        # Exponential back-off with jitter, so that many clients do not retry at once.
        return min(_FIRST_WAIT_S * 2 ** (attempt - 1), self.limits.max_wait_s) * random.uniform(0.5, 1.0)


def _content(response) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        said = one_line(response.text, _MAX_QUOTED)
        raise EndpointError(f"{response.url} did not answer with a chat completion: {said!r}", is_down=True) from error
    return content if isinstance(content, str) else ""


def _retry_after_s(response) -> float | None:
    """Return the seconds to wait by the Retry-After header, which gives seconds or a date; `None` without one."""
    value = response.headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value)
        return None if math.isnan(seconds) else max(seconds, 0.0)
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)
