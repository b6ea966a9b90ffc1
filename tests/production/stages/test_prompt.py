"""The stage prompt asks a real HTTP server on this machine, which has all kinds of faults."""

import json
import pickle
import socket
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pyarrow as pa
import pytest
from chat_server import Reply, serve_chat, verdict

from livecc_hf.endpoints.answer_cache import AnswerCacheError
from livecc_hf.endpoints.chat import EndpointError
from livecc_hf.production.execution.stage_runs import run_stage
from livecc_hf.production.execution.units import UnitState
from livecc_hf.production.schemas import CLIP_SCHEMA, DROPPED_SCHEMA, words_array
from livecc_hf.production.stages.prompt import Prompt, read_answer
from livecc_hf.utils.disk import is_disk_full


def clips(*spoken, title="A game") -> pa.Table:
    rows = len(spoken)
    columns = {
        "id": [f"v#{i}" for i in range(rows)],
        "title": [title] * rows,
        "start_s": [0.0] * rows,
        "end_s": [36.0] * rows,
    }
    table = {name: columns.get(name, [None] * rows) for name in CLIP_SCHEMA.names}
    words = words_array([[(0.0, 1.0, word) for word in text.split()] for text in spoken])
    return pa.table(table | {"words": words}, schema=CLIP_SCHEMA)


def stage_for(server, **options) -> Prompt:
    return Prompt(**{"model": "judge-7b", "base_url": server.url, "max_wait_s": 0.02, "timeout_s": 5} | options)


def speech_of(body) -> str:
    return next(m["content"] for m in body["messages"] if m["role"] == "user").partition("Speech:\n")[2]


def test_clips_are_judged_and_get_a_query():
    answers = {
        "he shoots and scores": verdict(" Please comment\non the game. "),
        "i love my dog": verdict("", personal=True),
        "hello yes hello": verdict("", conversation=True, garbled=True),
        "buy my book": verdict("", describes_video=False),
    }
    with serve_chat(lambda _, body: answers[speech_of(body)]) as server:
        result = stage_for(server)(clips(*answers))
    assert result.kept["query"].to_pylist() == ["Please comment on the game."]
    assert result.kept.schema == CLIP_SCHEMA and result.dropped.schema == DROPPED_SCHEMA
    rows = result.dropped.to_pylist()
    assert [row["reason"] for row in rows] == ["personal", "conversation", "not_about_video"]
    assert rows[1]["detail"] == "conversation, garbled" and rows[0]["text"] == "i love my dog"
    assert rows[0]["hours"] == pytest.approx(0.01)
    body = server.requests[0]
    assert body["model"] == "judge-7b" and body["response_format"]["type"] == "json_schema"
    assert "Title: A game" in body["messages"][1]["content"]


def test_the_key_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with serve_chat(lambda *_: verdict()) as server:
        stage_for(server, api_key_env="JUDGE_KEY")(clips("one"))
        monkeypatch.delenv("JUDGE_KEY")
        stage_for(server, api_key_env="JUDGE_KEY")(clips("one"))
    assert server.headers[0]["authorization"] == "Bearer secret" and "authorization" not in server.headers[1]


@pytest.mark.parametrize("header", ["1", "date"])
def test_a_rate_limit_is_waited_for_as_asked(header):
    def reply_to(number, body):
        asked = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if header == "date" else header
        return Reply(status=429, headers={"Retry-After": asked}, body="slow down") if number == 0 else verdict()

    with serve_chat(reply_to) as server:
        kept = stage_for(server, max_wait_s=10)(clips("one")).kept
    assert len(kept) == 1 and len(server.requests) == 2
    assert 0.9 < server.times_s[1] - server.times_s[0] < 4


@pytest.mark.parametrize("asked", ["9999", "inf", "nan"])
def test_waiting_has_its_limit(asked):
    with serve_chat(lambda n, _: verdict() if n else Reply(status=429, headers={"Retry-After": asked})) as server:
        start = time.monotonic()
        assert len(stage_for(server, max_wait_s=0.1)(clips("one")).kept) == 1
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=500, body="out of memory"),
        Reply(status=503, body="loading"),
        Reply(body="<html>not JSON</html>"),
        Reply(body='{"choices": []}'),
        Reply("no JSON at all"),
        Reply('{"describes_video": "yes"'),
        Reply(json.dumps({"describes_video": True, "query": "Comment."})),
        Reply(
            json.dumps({"describes_video": True, "personal": False, "conversation": False, "garbled": 0, "query": "x"})
        ),
        verdict(""),
        verdict("x" * 401),
        Reply(delay_s=1.0, content="{}"),
    ],
    ids=["500", "503", "html", "no choice", "words", "cut", "missing", "number", "no query", "long", "slow"],
)
def test_a_fault_that_passes_costs_nothing(fault):
    with serve_chat(lambda number, _: fault if number == 0 else verdict("Go on.")) as server:
        result = stage_for(server, timeout_s=0.5 if fault.delay_s else 5)(clips("one"))
    assert result.kept["query"].to_pylist() == ["Go on."] and len(server.requests) == 2


def test_a_bad_answer_is_sent_back_with_what_is_wrong():
    with serve_chat(lambda number, _: verdict() if number else verdict("")) as server:
        stage_for(server)(clips("one"))
    again = server.requests[1]["messages"]
    assert [message["role"] for message in again] == ["system", "user", "assistant", "user"]
    assert "'query' is empty" in again[-1]["content"]


def test_one_clip_that_fails_is_an_error_and_the_rest_goes_on():
    def reply_to(_, body):
        return {"nonsense": Reply("banana"), "long": Reply(status=400, body="prompt is too long")}.get(
            speech_of(body), verdict()
        )

    with serve_chat(reply_to) as server:
        result = stage_for(server)(clips("one", "nonsense", "two", "long", ""))
    assert result.kept["id"].to_pylist() == ["v#0", "v#2"]
    rows = result.dropped.to_pylist()
    assert [row["reason"] for row in rows] == ["error"] * 3
    assert "no usable answer from 'judge-7b' in 3 attempts" in rows[0]["detail"] and "banana" in rows[0]["detail"]
    assert "400" in rows[1]["detail"] and "prompt is too long" in rows[1]["detail"]
    assert rows[2]["detail"] == "the clip has no words"
    assert sum(speech_of(body) == "nonsense" for body in server.requests) == 3
    assert sum(speech_of(body) == "long" for body in server.requests) == 1


def test_an_endpoint_that_is_not_there_stops_the_stage():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    stage = Prompt(model="m", base_url=url, max_wait_s=0.01, max_attempts=3)
    with pytest.raises(
        EndpointError, match=r"stage stops: 2 clips .* cannot be reached: .* \(after 3 tries\)"
    ) as caught:
        stage(clips("one", "two"))
    assert "\n" not in str(caught.value) and "Check the endpoint" in str(caught.value)


def test_an_endpoint_that_never_answers_in_time_stops_the_stage():
    with serve_chat(lambda *_: Reply("{}", delay_s=0.6)) as server:
        with pytest.raises(EndpointError, match="did not answer within 0.2 s"):
            stage_for(server, timeout_s=0.2, max_attempts=2)(clips("one"))
        assert len(server.requests) == 4  # the clip, then an easy question, twice each


@pytest.mark.parametrize("n_clips", [1, 40])
def test_an_outage_at_the_end_of_a_batch_drops_nothing(tmp_path, n_clips):
    cache = str(tmp_path / "answers.sqlite")
    batch = clips(*(f"clip {i}" for i in range(n_clips)))

    def reply_to(number, body):
        return verdict() if number < n_clips - 1 else Reply(status=503, body="gone")

    with serve_chat(reply_to) as server:
        stage = stage_for(server, concurrency=1, max_attempts=2, cache=cache)
        with pytest.raises(EndpointError, match=r"stage stops: 1 clips .* answered 503"):
            stage(batch)
    with serve_chat(lambda *_: verdict()) as server:
        assert len(stage_for(server, cache=cache)(batch).kept) == n_clips and len(server.requests) == 1


def test_clips_of_an_outage_that_is_over_are_asked_again():
    def reply_to(number, body):
        return Reply(status=503, body="loading") if 10 <= number < 16 else verdict(f"Q {speech_of(body)}")

    with serve_chat(reply_to) as server:
        result = stage_for(server, concurrency=1, max_attempts=2)(clips(*(f"clip {i}" for i in range(20))))
    assert result.kept["query"].to_pylist() == [f"Q clip {i}" for i in range(20)]
    assert len(server.requests) == 17 + 3 * 2 + 1 + 3 and len(result.dropped) == 0


@pytest.mark.parametrize("others", [0, 30])
def test_a_clip_that_breaks_the_endpoint_each_time_is_dropped_alone(others):
    def reply_to(_, body):
        return Reply(status=500, body="out of memory") if speech_of(body) == "poison" else verdict()

    with serve_chat(reply_to) as server:
        spoken = [*(f"clip {i}" for i in range(others)), "poison"]
        result = stage_for(server, max_attempts=2)(clips(*spoken))
    assert len(result.kept) == others
    [row] = result.dropped.to_pylist()
    assert row["reason"] == "error" and "out of memory" in row["detail"]


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_model_stops_the_stage_at_once(status):
    message = f"answered {status} for model 'judge-7b'.*check the address"
    with (
        serve_chat(lambda *_: Reply(status=status, body="no")) as server,
        pytest.raises(EndpointError, match=message),
    ):
        stage_for(server, concurrency=2)(clips(*(f"clip {i}" for i in range(50))))
    assert len(server.requests) <= 4


def test_the_stage_gives_up_after_so_many_failures_in_a_row(tmp_path):
    cache = str(tmp_path / "answers.sqlite")

    def reply_to(number, body):
        return verdict() if number < 10 else Reply("banana")

    with serve_chat(reply_to) as server:
        stage = stage_for(server, concurrency=2, max_answers=1, give_up_after=5, cache=cache)
        with pytest.raises(EndpointError, match="5 clips in this batch got no usable answer|6 clips in this batch"):
            stage(clips(*(f"clip {i}" for i in range(100))))
        assert 15 <= len(server.requests) <= 17
    with serve_chat(lambda *_: verdict()) as server:  # and goes on where it was
        again = stage_for(server, cache=cache)(clips(*(f"clip {i}" for i in range(100))))
    assert len(again.kept) == 100 and len(server.requests) == 90


def test_a_resumed_run_does_not_ask_again(tmp_path):
    cache = str(tmp_path / "new folder" / "answers.sqlite")
    batch = clips("one", "two", "three")
    with serve_chat(lambda _, body: verdict("Q " + speech_of(body), garbled=speech_of(body) == "two")) as server:
        first = stage_for(server, cache=cache)(batch)
        second = stage_for(server, cache=cache)(batch)
        assert len(server.requests) == 3
        stage_for(server, cache=cache, model="other")(batch)
        assert len(server.requests) == 6
    assert second.kept.equals(first.kept) and second.dropped.equals(first.dropped)
    assert first.kept["query"].to_pylist() == ["Q one", "Q three"]
    down = Prompt(model="judge-7b", base_url="http://127.0.0.1:9/v1", cache=cache)  # not even reached
    assert down(batch).kept.equals(first.kept)


def test_calls_are_made_at_the_same_time_within_the_limit():
    with serve_chat(lambda *_: Reply(verdict().content, delay_s=0.05)) as server:
        result = stage_for(server, concurrency=4)(clips(*(f"clip {i}" for i in range(24))))
    assert result.kept["id"].to_pylist() == [f"v#{i}" for i in range(24)]
    assert 2 <= server.most_at_once <= 4


def test_what_the_endpoint_refuses_is_not_sent_again():
    def reply_to(_, body):
        if "temperature" in body:
            return Reply(status=400, body="'temperature' does not support 0 with this model")
        if "max_tokens" in body:
            return Reply(status=400, body="use 'max_completion_tokens' instead")
        if "response_format" in body:
            return Reply(status=422, body=f"unknown response_format {body['response_format']['type']}")
        return verdict()

    with serve_chat(reply_to) as server:
        stage = stage_for(server, concurrency=1)
        assert len(stage(clips("one", "two")).kept) == 2
    formats = [body.get("response_format", {}).get("type") for body in server.requests]
    assert formats == ["json_schema"] * 3 + ["json_object", None, None]
    assert server.requests[-1]["max_completion_tokens"] > 0


@pytest.mark.parametrize(
    "around",
    ["```json\n{}\n```", '<think>{{a}} or {{"query": 1}}?</think>\n{}', "Sure! {} Anything else?", "{}"],
)
def test_an_answer_is_found_in_what_is_around_it(around):
    answer = verdict("Go.").content
    assert read_answer(around.replace("{{", "{").replace("}}", "}").replace("{}", answer))["query"] == "Go."


@pytest.mark.parametrize("text", ["", "[]", "{" * 5000, "null", '"{}"', '{"a": {"b": ' * 3000])
def test_nonsense_is_a_value_error(text):
    with pytest.raises(ValueError):
        read_answer(text)


def test_the_stage_travels_and_takes_no_rows():
    with serve_chat(lambda *_: verdict()) as server:
        stage = stage_for(server)
        stage.open()
        again = pickle.loads(pickle.dumps(stage))
        assert len(again(clips("one")).kept) == 1
        assert len(again(clips()).kept) == 0


def test_bad_options_and_a_bad_cache_are_said(tmp_path):
    with pytest.raises(ValueError, match="prompt.model is not given"):
        Prompt()
    with pytest.raises(ValueError, match="base_url is 'localhost:8000': expected an address"):
        Prompt(model="m", base_url="localhost:8000").open()
    with pytest.raises(ValueError, match="concurrency is 0: expected at least 1"):
        Prompt(model="m", concurrency=0)
    with pytest.raises(ValueError, match="timeout_s is 0: expected seconds"):
        Prompt(model="m", timeout_s=0)
    (tmp_path / "cache").write_text("not a database, but long enough to be looked at by someone who reads it")
    with pytest.raises(ValueError, match="cache .* cannot be used"):
        Prompt(model="m", cache=str(tmp_path / "cache")).open()


def test_a_cache_that_cannot_grow_stops_with_one_error(tmp_path):
    cache = tmp_path / "answers.sqlite"
    with serve_chat(lambda *_: verdict("q" * 399)) as server:
        stage = stage_for(server, cache=str(cache))
        stage.open()
        # SQLite's own limit fails as a full disk does.
        stage.loaded.cache._connection.execute("PRAGMA max_page_count = 4")
        with pytest.raises(OSError, match="answers cannot be written: .*full; free some space there.*answers.sqlite"):
            stage(clips(*(f"clip {i}" for i in range(60))))
    with sqlite3.connect(cache) as connection:  # what was written is whole
        (count,) = connection.execute("SELECT count(*) FROM answers").fetchone()
    assert 0 < count < 60


@pytest.mark.parametrize("fault", ["full", "locked"])
def test_a_cache_that_fails_ends_the_run_and_pays_for_nothing_twice(tmp_path, fault):
    """The run must stop at once, without trying smaller and smaller batches or dropping clips."""
    cache = tmp_path / "answers.sqlite"
    table = clips(*(f"clip {i}" for i in range(60)))
    unit = UnitState(0, table, DROPPED_SCHEMA.empty_table(), ())
    with serve_chat(lambda *_: verdict("q" * 399)) as server:
        stage = stage_for(server, cache=str(cache), concurrency=1)
        stage.open()
        connection = stage.loaded.cache._connection
        if fault == "full":
            connection.execute("PRAGMA max_page_count = 4")
            with pytest.raises(OSError, match="free some space there") as caught:
                run_stage(stage, unit)
            assert is_disk_full(caught.value)
        else:
            connection.execute("PRAGMA busy_timeout = 50")
            other = sqlite3.connect(cache, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(AnswerCacheError, match="answers.sqlite cannot be written: database is locked"):
                run_stage(stage, unit)
            other.close()
        asked = len(server.requests)
    assert asked <= 30
