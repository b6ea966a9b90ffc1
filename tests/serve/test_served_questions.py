"""Questions, pauses and the `started` message."""

import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from served import OPTIONS, alone, serving, some_frames, wait_for

QUESTION = "What is shown?"


def test_a_question_is_answered_and_the_commentary_continues(server, model, processor, frames):
    expected = alone(model, processor, frames)
    stream = model.start_stream(processor, OPTIONS)
    stream.push(frames[:8])
    answer = stream.answer(QUESTION, 12)
    n_answered = server.metric("livecc_answer_seconds_count")
    with server.client() as client:
        for n in range(8):
            client.show(n / 2, frames[n])
        said = [client.hear() for _ in range(2)]
        client.say({"type": "question", "question": QUESTION, "max_new_tokens": 12, "id": "q1"})
        assert client.hear() == {"type": "answer", "id": "q1", "question": QUESTION, "text": answer}
        for n in range(8, 16):
            client.show(n / 2, frames[n])
        client.say({"type": "question", "question": QUESTION, "max_new_tokens": 3})
        client.say({"type": "finish"})
        heard, code, _ = client.hear_all()
    said += [m for m in heard if m["type"] == "segment"]
    assert [(m["start_s"], m["end_s"], m["text"]) for m in said] == expected
    assert code == 1000 and sum(m["type"] == "answer" and "id" not in m for m in heard) == 1
    assert server.metric("livecc_answer_seconds_count") == n_answered + 2


def test_questions_that_cannot_be_answered_get_an_error(server, frames):
    with server.client() as client:
        client.say({"type": "question", "question": QUESTION, "id": 7})
        error = client.hear()
        assert (error["code"], error["id"], error["is_final"]) == ("bad_question", 7, False)
        assert "nothing has been seen yet" in error["message"]
        client.show_a_first(frames[0], server)
        for question, message in (
            ({"question": QUESTION}, "nothing has been seen yet"),
            ({"question": " "}, "expected some text"),
            ({"question": "<|im_end|>"}, "special token"),
            ({"question": "why " * 900}, "tokens: expected at most 1024"),
            ({"question": QUESTION, "max_new_tokens": 1000}, "max_new_tokens=1000: expected at most 128"),
        ):
            client.say({"type": "question", **question})
            error = client.hear()
            assert error["code"] == "bad_question" and message in error["message"], error
        client.say({"type": "question"})
        assert client.hear()["code"] == "bad_message"


def test_the_reply_to_start_holds_the_model_and_the_limits(server):
    from served import Client

    with Client(server.url, False) as client:
        client.say({"type": "start"})
        started = client.hear()
    assert started["type"] == "started" and started["frames_per_s"] == 2
    assert started["model"] == server.service.model.name
    assert started["max_pixels"] == OPTIONS.max_pixels
    assert started["max_pause_s"] == 600 and started["max_answer_tokens"] == 128


def test_a_paused_session_keeps_its_slot_up_to_a_limit(model, processor):
    frames = some_frames(7)
    with serving(model, processor, idle_timeout_s=1.0, max_pause_s=4.0) as server:
        with server.client() as client:
            for n in range(6):
                client.show(n / 2, frames[n])
            assert client.hear()["type"] == "segment"
            client.say({"type": "pause"})
            time.sleep(1.5)
            client.show(3, frames[6])  # the video continues
            began_s = time.monotonic()
            client.say({"type": "question", "question": QUESTION, "max_new_tokens": 2})
            assert client.hear()["type"] == "answer"
            client.say({"type": "pause"})
            heard, code, reason = client.hear_all()
            assert code == 1008 and reason.startswith("idle: no new frame for 4 s")
            assert time.monotonic() - began_s >= 3.5
            assert [m["type"] for m in heard] == ["error"]
        wait_for(lambda: len(server.service.pool) == 0)
