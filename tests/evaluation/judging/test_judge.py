"""Judging with a real HTTP server: both orders, invalid replies, resuming, and the reply cache."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from chat_server import Reply, serve_chat
from layouts import commentaries, write_json, write_lines

from livecc_hf.cli.main import main
from livecc_hf.endpoints.chat import EndpointError, RetryLimits
from livecc_hf.evaluation import JudgeOptions, judge, score
from livecc_hf.evaluation.judging.prompt import judge_protocol
from livecc_hf.evaluation.predictions import CommentaryRow, Header, read_rows
from livecc_hf.evaluation.predictions.file import write_rows
from livecc_hf.utils.one_run import only_run

A, B = "Commentary A is better aligned with the human commentary", "Commentary B is better aligned."
N = 6


def longer_wins(_, body) -> Reply:
    """A judge without position bias: it prefers the longer text."""
    text = body["messages"][0]["content"]
    first, second = (text.split(f"---Commentary {name}---\n")[1].split("\n----------")[0] for name in "AB")
    return Reply(A if len(first) > len(second) else B)


@pytest.fixture
def sides(tmp_path):
    """Files with the model's texts (longer than the opponent's in two rows), the opponent's, and the references."""
    mine = [f"a long commentary number {i}" if i < 2 else f"c{i}" for i in range(N)]
    rows = commentaries(mine, n_videos=3)
    people = [
        {name: row[name] for name in ("video_id", "event_id", "begin", "end")}
        | {"event_asr_text": f"What was said {row['event_id']}.", "event_asr": '[[0, 1, "What"]]'}
        for row in rows
    ]
    return (
        write_lines(tmp_path / "Mine.jsonl", rows),
        write_lines(tmp_path / "Base.jsonl", commentaries([f"the other {i}" for i in range(N)], n_videos=3)),
        write_json(tmp_path / "cc.json", people),
    )


def options(server, **others):
    limits = RetryLimits(timeout_s=5, max_attempts=2, max_wait_s=0.01)
    return JudgeOptions(model="judge-1", base_url=server.url, limits=limits, concurrency=2, **others)


def run(sides, out, server, quiet=True, **others):
    lines = []
    result = judge(sides[0], sides[1], out, options(server, **others), sides[2], say=lines.append)
    return result


def test_both_orders_are_asked_with_the_published_prompt(sides, tmp_path):
    with serve_chat(longer_wins) as server:
        result = run(sides, tmp_path / "v.jsonl", server)
    assert (result.n_rows, result.n_asked, result.n_cached, result.n_invalid, result.failed) == (N, 2 * N, 0, 0, [])
    body = next(body for body in server.requests if "number 0\n" in body["messages"][0]["content"])
    assert (body["model"], body["temperature"], body["seed"]) == ("judge-1", 0, 42)
    assert "response_format" not in body
    text = body["messages"][0]["content"]
    assert text.startswith(
        "You are an expert in video commentary. Your task is to review two commentaries (Commentary A "
    )
    assert "human commentary.\n\n---Commentary A---\n" in text
    assert "\n---Human Commentary---\nWhat was said 0.\n----------\n\nYour response should be " in text
    assert text.endswith('"Commentary B is better aligned with the human commentary".\n')
    (scored,) = score([tmp_path / "v.jsonl", *sides[:2]], incomplete=True)
    assert scored.figures[0].name == "win rate"
    assert scored.figures[0].value == pytest.approx(100 * 2 / N)
    assert scored.figure("same winner in both orders").value == pytest.approx(100)
    assert (scored.model, scored.details["judge"], scored.details["opponent"]) == ("Mine", "judge-1", "Base")


@pytest.mark.parametrize(
    ("order", "reply", "expected"),
    [
        ("ab", A, ("model", True)),
        ("ba", A, ("opponent", True)),
        ("ab", B, ("opponent", True)),
        ("ba", B, ("model", True)),
        ("ab", "Both Commentary A and Commentary B are fine.", ("tie", False)),
        ("ab", "Neither.", ("tie", False)),
        ("ab", "", ("tie", False)),
    ],
)
def test_replies(order, reply, expected):
    assert judge_protocol("livecc").read(order, reply) == expected


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_attempts": 0}, "max_attempts is 0: expected at least 1"),
        ({"timeout_s": -1.0}, "timeout_s is -1.0: expected seconds above 0"),
        ({"max_wait_s": math.nan}, "max_wait_s is nan: expected seconds above 0"),
    ],
)
def test_limits_of_a_request_out_of_range_are_named(limits, message):
    with pytest.raises(ValueError, match=message):
        RetryLimits(**limits)


def test_braces_in_a_text_are_not_expanded():
    (message,) = judge_protocol("livecc").messages("ab", "{b} {reference}", "other", "said {a}")
    assert "---Commentary A---\n{b} {reference}\n---" in message["content"]
    assert "---Human Commentary---\nsaid {a}\n---" in message["content"]


def test_invalid_replies_are_kept_counted_and_ties(sides, tmp_path):
    with serve_chat(lambda n, body: Reply("I cannot say." if n == 0 else A)) as server:
        result = run(sides, tmp_path / "v.jsonl", server)
    assert result.n_invalid == 1
    assert result.notes == ["1 reply is invalid, such as 'I cannot say.'"]
    rows = read_rows(tmp_path / "v.jsonl").rows
    (invalid,) = [row for row in rows if not row.is_valid]
    assert (invalid.winner, invalid.reply) == ("tie", "I cannot say.")
    (scored,) = score(tmp_path / "v.jsonl", incomplete=True)
    assert scored.figures[0].n_invalid == 1
    assert scored.figure("ties").value == pytest.approx(100 / (2 * N))


def test_replies_are_cached(sides, tmp_path):
    with serve_chat(longer_wins) as server:
        run(sides, tmp_path / "v.jsonl", server, limit=2)
        assert len(server.requests) == 4
        assert read_rows(tmp_path / "v.jsonl").header.limit == 2
        assert score(tmp_path / "v.jsonl")[0].figures[0].name == f"win rate (N = 2 of {N})"
        result = run(sides, tmp_path / "v.jsonl", server)
        assert (len(server.requests), result.n_asked) == (2 * N, 2 * N - 4)
        assert read_rows(tmp_path / "v.jsonl").header.limit is None
        run(sides, tmp_path / "v.jsonl", server)
        assert len(server.requests) == 2 * N
        # Another verdict file, filled from the same cache.
        cache = tmp_path / ".v.answers.sqlite"
        result = run(sides, tmp_path / "w.jsonl", server, cache=cache)
        assert (len(server.requests), result.n_cached) == (2 * N, 2 * N)
        result = run(sides, tmp_path / "v.jsonl", server, repeat=2)
        assert (len(server.requests), result.n_asked) == (4 * N, 2 * N)
    (scored,) = score(tmp_path / "v.jsonl", incomplete=True)
    assert scored.figure("same verdict when asked again").n == 2 * N


def test_a_judge_that_goes_down_and_comes_back(sides, tmp_path):
    def fails_late(n, body):
        return Reply(status=503, body="busy") if n >= 5 else longer_wins(n, body)

    with serve_chat(fails_late) as server, pytest.raises(EndpointError, match=r"5 verdicts are kept in .*v.jsonl"):
        run(sides, tmp_path / "v.jsonl", server, give_up_after=2)
    kept = read_rows(tmp_path / "v.jsonl").rows
    assert len(kept) == 5
    with serve_chat(longer_wins) as server:
        # The port differs, but the verdicts are the same, so the file is continued.
        result = run(sides, tmp_path / "v.jsonl", server)
    assert len(server.requests) == result.n_asked == 2 * N - 5
    assert len(read_rows(tmp_path / "v.jsonl").rows) == 2 * N


def test_a_refused_request_is_counted_and_the_others_continue(sides, tmp_path):
    def refuses_one(n, body):
        if "number 1\n" in body["messages"][0]["content"]:
            return Reply(status=400, body="content filter")
        return longer_wins(n, body)

    with serve_chat(refuses_one) as server:
        result = run(sides, tmp_path / "v.jsonl", server)
    assert sorted(what for what, _ in result.failed) == ["vid_1_1 ab", "vid_1_1 ba"]
    assert "content filter" in result.failed[0][1]
    (scored,) = score(tmp_path / "v.jsonl")
    assert scored.figures[0].name == f"win rate (N = {N - 1} of {N})"


def test_a_slow_and_a_rate_limited_judge(sides, tmp_path):
    def moody(n, body):
        if n == 0:
            return Reply(status=429, body="slow down", headers={"Retry-After": "0.01"})
        return longer_wins(n, body)

    with serve_chat(moody) as server:
        result = run(sides, tmp_path / "v.jsonl", server)
    assert (result.n_asked, len(server.requests), result.failed) == (2 * N, 2 * N + 1, [])


def test_a_wrong_key_ends_the_run_at_once(sides, tmp_path):
    with serve_chat(lambda *_: Reply(status=401, body="no key")) as server:
        with pytest.raises(EndpointError, match="check the address, the model's name and the key"):
            run(sides, tmp_path / "v.jsonl", server)
        assert len(server.requests) <= 4


def test_a_second_run_at_one_file_is_refused(sides, tmp_path):
    out = tmp_path / "new/v.jsonl"
    with serve_chat(longer_wins) as server:
        busy = "another run is working in .*v.jsonl: wait for it, or choose another file"
        with only_run(out, "file"), pytest.raises(ValueError, match=busy):
            run(sides, out, server)
        assert not server.requests
        assert run(sides, out, server).n_asked == 2 * N


def test_changed_texts_and_other_judges_are_refused(sides, tmp_path):
    with serve_chat(longer_wins) as server:
        run(sides, tmp_path / "v.jsonl", server, limit=2)
        other = options(server, limit=2)
        other = JudgeOptions(**vars(other) | {"model": "judge-2"})
        with pytest.raises(ValueError, match="judge: 'judge-1' there, 'judge-2' now"):
            judge(*sides[:2], tmp_path / "v.jsonl", other, sides[2])
        write_lines(sides[0], commentaries([f"changed {i}" for i in range(N)], n_videos=3))
        with pytest.raises(ValueError, match="holds verdicts on other texts, for example for 'vid_0_0'"):
            run(sides, tmp_path / "v.jsonl", server, limit=2)


def test_rows_without_one_sides_text_are_left_out(sides, tmp_path):
    write_lines(sides[1], commentaries(["the other"] * 3, n_videos=3))
    with serve_chat(longer_wins) as server:
        result = run(sides, tmp_path / "v.jsonl", server)
        assert result.n_rows == 3
        assert result.notes == ["3 of 6 rows lack one side's commentary, such as 'vid_0_3', and are not judged"]
        write_lines(sides[1], commentaries(["x"], n_videos=3) and [commentaries(["x"] * 9)[8]])
        with pytest.raises(ValueError, match="no row of .*Mine.jsonl has an opponent's commentary in .*Base.jsonl"):
            run(sides, tmp_path / "w.jsonl", server)


def test_references_can_be_in_the_predictions(tmp_path):
    rows = [
        CommentaryRow("v_1", "v", 0, 5, "mine", reference=[(0, 2, "One."), (2, 4, "Two.")]),
        CommentaryRow("v_2", "v", 5, 9, None, reference=[(5, 6, "Three.")], error="v.mp4 is missing"),
    ]
    header = Header("commentary", suite="livesports3k-cc", protocol="live", model="m", n_rows=2)
    write_rows(tmp_path / "m.jsonl", header, rows)
    theirs = [CommentaryRow(key, "v", 0, 5, "theirs") for key in ("v_1", "v_2")]
    write_rows(tmp_path / "o.jsonl", Header("commentary", suite="livesports3k-cc", model="o"), theirs)
    with serve_chat(longer_wins) as server:
        result = judge(tmp_path / "m.jsonl", tmp_path / "o.jsonl", tmp_path / "v.jsonl", options(server), say=print)
        assert "---Human Commentary---\nOne. Two.\n---" in server.requests[0]["messages"][0]["content"]
    assert result.n_rows == 1
    assert score([tmp_path / "v.jsonl"])[0].figures[0].name == "win rate (N = 1 of 2)"


def test_the_command(sides, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with serve_chat(longer_wins) as server:
        arguments = [
            "--judge",
            "j",
            "--base-url",
            server.url,
            "--annotations",
            str(sides[2]),
            "--api-key-env",
            "JUDGE_KEY",
        ]
        out = str(tmp_path / "out/v.jsonl")
        assert main(["evaluate", "judge", str(sides[0]), str(sides[1]), "--out", out, *arguments]) == 0
    assert server.headers[0]["authorization"] == "Bearer secret"
    err = capsys.readouterr().err
    assert "6 rows; 12 new replies, 0 cached; 0 invalid; 0 failed" in err
    assert "12 of 12 rows" in err
    assert "secret" not in Path(out).read_text()
    assert main(["evaluate", "judge", str(sides[0]), str(sides[1]), "--out", out, "--judge", ""]) == 2
    assert "no judge is named" in capsys.readouterr().err


def test_killed_while_judging(sides, tmp_path):
    def slowly(n, body):
        time.sleep(0.15)
        return longer_wins(n, body)

    out = tmp_path / "v.jsonl"
    with serve_chat(slowly) as server:
        arguments = ["--judge", "j", "--base-url", server.url, "--annotations", str(sides[2]), "--concurrency", "1"]
        command = [
            sys.executable,
            "-m",
            "livecc_hf.cli.main",
            "evaluate",
            "judge",
            *map(str, sides[:2]),
            "--out",
            str(out),
        ]
        process = subprocess.Popen([*command, *arguments], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(server.requests) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        n_before, kept = len(server.requests), len(read_rows(out).rows)
        assert n_before >= 5
        assert subprocess.run([*command, *arguments], stderr=subprocess.DEVNULL).returncode == 0
    # Finished calls are not repeated; the one that was running may be.
    assert len(server.requests) - n_before <= 2 * N - kept
    rows = read_rows(out).rows
    assert len(rows) == len({json.dumps(row.id) for row in rows}) == 2 * N


def test_an_interrupted_run_says_that_it_waits_for_replies_and_keeps_them(sides, tmp_path):
    is_interrupted = threading.Event()

    def late(n, body):
        is_interrupted.wait(60)
        return longer_wins(n, body)

    with serve_chat(late) as server:
        arguments = [*map(str, sides[:2]), "--out", str(tmp_path / "v.jsonl"), "--judge", "judge-1"]
        arguments += ["--base-url", server.url, "--annotations", str(sides[2]), "--concurrency", "2"]
        command = [sys.executable, "-m", "livecc_hf.cli.main", "evaluate", "judge", *arguments]
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background jobs of a shell
        )
        while len(server.requests) < 2 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.stderr.readline()
        is_interrupted.set()
        _, rest = process.communicate()
        assert (process.returncode, rest) == (130, "interrupted\n")
        assert said == "waiting for 2 replies, 120 s at most: the next run has them from the cache\n"
        assert run(sides, tmp_path / "v.jsonl", server).n_cached == 2
    assert len(server.requests) == 2 * N


def test_a_revision_that_nothing_is_read_at_is_refused(sides, tmp_path):
    chosen = JudgeOptions(model="judge-1")
    with pytest.raises(ValueError, match="--dataset-revision v1: not with --annotations .*cc.json"):
        judge(sides[0], sides[1], tmp_path / "v.jsonl", chosen, sides[2], "v1")
    windows = JudgeOptions(model="judge-1", protocol="inf-streams")
    with pytest.raises(ValueError, match="--dataset-revision v1: not with --protocol inf-streams"):
        judge(sides[0], sides[1], tmp_path / "v.jsonl", windows, revision="v1")
