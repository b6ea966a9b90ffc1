"""`livecc commentate`, with the tiny random checkpoint of the recorded reference."""

import argparse
import html
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import srt
import webvtt
from media import write_audio, write_video

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))
from senders import LiveServer, free_port

from livecc_hf.captions.writers import clock
from livecc_hf.cli.main import main
from livecc_hf.cli.times import parse_time
from livecc_hf.modeling import CommentaryStream
from livecc_hf.utils.text import one_line
from livecc_hf.video.reader import probe_video

SYSTEM = "/proc" if Path("/proc").is_dir() else "/dev"  # folders in which nobody creates files
GREEDY = ["--greedy", "--position-scheme", "reference", "--max-pixels", "50176", "--window", "none"]


@pytest.fixture
def clip(reference_dir):
    return str(reference_dir / "clip.mp4")


@pytest.fixture
def commentate(published_checkpoint, capsys):
    """A function that runs the command in this process and returns (exit code, standard output, standard error)."""

    def run(*argv, model=published_checkpoint):
        code = main(["commentate", *map(str, argv), *(["--model", str(model)] if model else []), *GREEDY])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture
def spoken(reference):
    """(start, end, text) of the reference's words for the clip, without silent turns."""
    turns = (
        (start, end, one_line(text.strip().removesuffix(" ...")))
        for start, end, text in reference["live_cc"]["segments"]
    )
    return [turn for turn in turns if turn[2]]


class TestOutput:
    def test_words_equal_the_reference(self, commentate, clip, spoken, published_checkpoint):
        code, out, err = commentate(clip)
        assert code == 0
        assert out == "".join(f"{clock(start)} - {clock(end)}  {text}\n" for start, end, text in spoken)
        lines = err.splitlines()
        assert lines[0] == f"model: {published_checkpoint}"
        assert "x real time); 12 turns, 9 with words" in lines[-1]
        assert lines[-1].startswith("14.0 s of video in ")

    def test_in_each_format(self, commentate, clip, spoken, tmp_path):
        for suffix in ("srt", "vtt", "jsonl", "txt"):
            code, out, _ = commentate(clip, "--end", "8", "--output", tmp_path / f"out.{suffix}")
            assert code == 0
            assert out.splitlines()[0].startswith("00:05.0 - 00:06.0  ")  # still shown, as text
        expected = [turn for turn in spoken if turn[1] <= 8]
        cues = list(srt.parse((tmp_path / "out.srt").read_text(encoding="utf-8")))
        assert [(c.start.total_seconds(), c.end.total_seconds(), c.content) for c in cues] == expected
        cues = webvtt.read(tmp_path / "out.vtt").captions
        assert [html.unescape(c.raw_text) for c in cues] == [text for _, _, text in expected]
        entries = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [entry["end_s"] for entry in entries] == [3, 4, 5, 6, 7, 8]
        assert [entry["text"].strip() for entry in entries if entry["text"].strip()] == [text for *_, text in expected]
        assert (tmp_path / "out.txt").read_text(encoding="utf-8") == out

    def test_format_wins_over_the_name_and_quiet_says_nothing(self, commentate, clip, tmp_path):
        code, out, err = commentate(clip, "--end", "6", "--format", "vtt", "--output", tmp_path / "o.srt", "--quiet")
        assert (code, out, err) == (0, "", "")
        assert (tmp_path / "o.srt").read_text().startswith("WEBVTT\n")

    def test_times_are_those_that_players_show(self, commentate, tmp_path):
        """A clip of a broadcast, whose clock starts anywhere."""
        video = write_video(tmp_path / "late.ts", times_s=[50 + n / 10 for n in range(80)], size_px=(320, 240))
        code, out, _ = commentate(video, "--start", "0:02", "--end", "7", "--format", "jsonl")
        assert code == 0
        times = [(entry["start_s"], entry["end_s"]) for entry in map(json.loads, out.splitlines())]
        assert times == [(2, 5), (5, 6), (6, 7)]

    def test_overlay_is_a_playable_copy(self, commentate, clip, tmp_path):
        out = tmp_path / "out.mp4"
        code, _, err = commentate(clip, "--start", "4", "--end", "10", "--overlay", out)
        assert code == 0
        assert err.splitlines()[-1] == f"wrote {out}"
        info = probe_video(out)
        assert (info.width, info.height) == (320, 240)
        assert info.duration_s == pytest.approx(6, abs=0.05)

    def test_damage_is_a_warning(self, commentate, tmp_path):
        whole = write_video(tmp_path / "whole.mkv", n_frames=100, size_px=(320, 240), codec_options={"g": "5"})
        cut = tmp_path / "cut.mkv"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
        code, _, err = commentate(cut)
        assert code == 0
        warned = [line for line in err.splitlines() if line.startswith("livecc: warning: ")]
        assert len(warned) == 1
        assert "s of video were decoded" in warned[0]

    def test_realtime_keeps_to_the_clock_and_reports(self, commentate, tmp_path):
        video = write_video(tmp_path / "video.mp4", n_frames=40, size_px=(160, 120))
        began_s = time.monotonic()
        code, _, err = commentate(video, "--realtime")
        assert code == 0
        assert time.monotonic() - began_s >= 3.5  # the last frame is due then
        last = err.splitlines()[-1]
        assert last.startswith("lag ")
        assert "s at most" in last
        assert "frames skipped" in last

    def test_realtime_skips_what_a_slow_model_cannot_follow(self, commentate, tmp_path, monkeypatch):
        push = CommentaryStream.push

        def slow_push(stream, frames, timestamps_s):
            segments = push(stream, frames, timestamps_s)
            time.sleep(1.6 * len(segments))
            return segments

        monkeypatch.setattr(CommentaryStream, "push", slow_push)
        video = write_video(tmp_path / "video.mp4", n_frames=65, size_px=(160, 120))
        code, out, err = commentate(video, "--realtime", "--format", "jsonl")
        assert code == 0
        times = [(entry["start_s"], entry["end_s"]) for entry in map(json.loads, out.splitlines())]
        assert times[0] == (0, 3)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))
        assert sum(end - start for start, end in times) < 6.5  # some of it was skipped
        skipped, lag = re.search(r"at most; (\d+) frames skipped", err), re.search(r"lag ([\d.]+) s on average", err)
        assert int(skipped[1]) >= 2
        assert float(lag[1]) >= 1.5

    def test_the_default_model_is_introduced_first(self, commentate, clip, published_checkpoint, monkeypatch):
        monkeypatch.setattr("livecc_hf.cli.model_arguments.bundled_model_path", lambda: published_checkpoint)
        code, _, err = commentate(clip, "--end", "3", model=None)
        assert code == 0
        assert "livecc-tiny" in err.splitlines()[0]
        assert "moving coloured shapes" in err.splitlines()[0]
        assert "--model chenjoya/LiveCC-7B-Instruct" in err.splitlines()[0]

    def test_the_assumed_position_scheme_is_stated(self, published_checkpoint, clip, capsys):
        assert main(["commentate", clip, "--model", str(published_checkpoint), "--end", "3"]) == 0
        assert "assuming position scheme 'mrope'" in capsys.readouterr().err


def stop_once_written(path, stop):
    """Call `stop` in a thread once the file is not empty; return the thread."""

    def wait():
        deadline_s = time.monotonic() + 30
        while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        stop()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


class TestLiveSources:
    @pytest.fixture
    def server(self):
        server = LiveServer()
        yield server
        server.stop()

    def test_words_come_while_the_stream_runs(self, commentate, server):
        server.end_s = 4.0
        code, out, err = commentate(server.url("end.ts", login="me:geheim@"), "--format", "jsonl", "--reconnects", "0")
        assert code == 0
        turns = [json.loads(line) for line in out.splitlines()]
        assert (turns[0]["start_s"], turns[0]["end_s"]) == (0, 3)
        assert all(turn["end_s"] == int(turn["end_s"]) for turn in turns)
        lines = err.splitlines()
        assert "the stream has ended" in lines[-3]
        assert "turns" in lines[-2]
        assert re.match(r"lag [\d.]+ s on average, [\d.]+ s at most; \d+ frames skipped", lines[-1])
        assert "geheim" not in out + err

    def test_a_stream_that_fails_keeps_what_was_said(self, commentate, server, tmp_path):
        out = tmp_path / "out.jsonl"
        stopper = stop_once_written(out, server.stop)
        code, _, err = commentate(server.url(), "--output", out, "--reconnects", "1")
        stopper.join()
        assert code == 2
        assert out.read_text().count("\n") >= 1
        lines = err.splitlines()
        assert re.search(r"lost: connection refused.*1 attempts to connect again failed", lines[-1])
        assert any("attempt 1 of 1 in" in line for line in lines)
        assert lines[-2].startswith("lag ")

    def test_a_stream_that_refuses_in_the_middle_keeps_what_was_said(self, commentate, server, tmp_path):
        out = tmp_path / "out.jsonl"

        def refuse():
            server.refuse = 401
            server.cut()

        stopper = stop_once_written(out, refuse)
        code, _, err = commentate(server.url("live.ts", "me:geheim@"), "--output", out)
        stopper.join()
        assert code == 2
        assert out.read_text().count("\n") >= 1
        lines = err.splitlines()
        assert "lost: 401, not authorised" in lines[-1]
        assert lines[-2].startswith("lag ")
        assert "geheim" not in err

    def test_standard_input(self, commentate, tmp_path):
        video = write_video(tmp_path / "a.ts", n_frames=60, size_px=(160, 120))
        kept = os.dup(0)
        with video.open("rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as sender:
            os.dup2(sender.stdout.fileno(), 0)
            try:
                code, out, err = commentate("-", "--file", "--format", "jsonl")
            finally:
                os.dup2(kept, 0)
                os.close(kept)
        assert code == 0, err
        turns = [(turn["start_s"], turn["end_s"]) for turn in map(json.loads, out.splitlines())]
        assert turns == [(0, 3), (3, 4), (4, 5), (5, 6)]

    def test_errors_are_one_line_and_hide_passwords(self, commentate, server, tmp_path):
        login = "me:geheim@"
        for video, options, message in (
            (server.url("live.ts", login), ["--overlay", tmp_path / "o.mp4"], "--overlay: for video files only"),
            (server.url("live.ts", login), ["--start", "3", "--end", "5"], "--start and --end: for video files only"),
            ("-", ["--end", "3"], "--end: for video files only, and - is read as a stream"),
            ("-", ["--max-gap", "60"], "--max-gap: for video files only, and - is read as a stream"),
            (server.url("401", login), [], "401, not authorised"),
            (server.url("404", login), [], "404, not found"),
            (f"rtsp://{login}127.0.0.1:{free_port()}/a", [], "connection refused: check that the server is running"),
            (f"ftp://{login}host/a", [], "unknown scheme ftp://"),
        ):
            code, out, err = commentate(video, *options)
            assert (code, out) == (2, ""), message
            assert message in err
            assert err.count("\n") == 1
            assert "geheim" not in err


class TestErrors:
    def test_of_files_and_models_are_one_line(self, commentate, clip, tmp_path):
        text = tmp_path / "notes.txt"
        text.write_text("not a video\n" * 50)
        (tmp_path / "empty").mkdir()
        other = tmp_path / "other"
        other.mkdir()
        (other / "config.json").write_text('{"model_type": "bert"}')
        for video, options, message in (
            (tmp_path / "none.mp4", {}, "no such file"),
            (text, {}, "is a text file, not a video"),
            (tmp_path, {}, "is a folder"),
            (write_audio(tmp_path / "tone.m4a"), {}, "no video stream"),
            (clip, {"model": tmp_path / "none"}, "does not exist"),
            (clip, {"model": tmp_path / "empty"}, "holds no config.json"),
            (clip, {"model": other}, "holds a model of type 'bert'"),
            (clip, {"model": "someone/some-model"}, "HF_HUB_OFFLINE is set"),
        ):
            code, out, err = commentate(video, **options)
            assert (code, out) == (2, ""), message
            assert message in err
            assert err.count("\n") == 1
            assert err.startswith("livecc: error: ")

    def test_of_options_come_before_the_model_is_loaded(self, commentate, clip, tmp_path):
        for options, message in (
            (["--start", "5", "--end", "4"], "--end 4 is not after the start, 5"),
            (["--start", "99"], "--start 99 lies past the end of"),
            (["--overlay", tmp_path / "o.webm"], "expected a file name that ends in .mp4"),
            (["--overlay", tmp_path / "none" / "o.mp4"], "expected a file name in a folder that exists"),
            (["--overlay", clip], "is the video itself"),
            (["--output", tmp_path / "none" / "o.srt"], "expected a file name in a folder that exists"),
            (["--output", clip, "--format", "text"], "is the video itself"),
            (["--output", tmp_path / "o.doc"], "unknown suffix .doc; expected one of .txt, .srt, .vtt, .jsonl"),
            (["--output", tmp_path / "{stemm}.srt"], "unknown {stemm}; expected some of {stem}, {name}"),
            (["--output", f"{SYSTEM}/o.srt"], f"--output {SYSTEM}/o.srt cannot be written"),
            (["--overlay", f"{SYSTEM}/o.mp4"], f"--overlay {SYSTEM}/o.mp4 cannot be written"),
            (["--device", "gpu"], "device 'gpu' cannot be used: expected cpu"),
            (["--dtype", "int8"], "dtype 'int8' is unknown: expected float32, bfloat16 or float16"),
            (["--overlay", tmp_path / "o.mp4", "--overlay-font", clip], "cannot be used: expected a TrueType"),
        ):
            code, out, err = commentate(clip, *options)
            assert (code, out) == (2, ""), message
            assert message in err
            assert err.count("\n") == 1

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
    def test_of_a_full_disk_names_the_file(self, commentate, clip):
        code, _, err = commentate(clip, "--end", "3", "--format", "vtt", "--output", "/dev/full")
        assert code == 2
        assert err.splitlines()[-1] == "livecc: error: the disk of /dev/full is full: what was written before is kept"

    def test_of_generation_options_name_the_value(self, commentate, clip):
        code, _, err = commentate(clip, "--top-p", "1.5")
        assert code == 2
        assert "--top-p 1.5: expected a number above 0 and at most 1" in err.splitlines()[-1]

    def test_a_full_context_keeps_what_was_said(self, commentate, clip, published_checkpoint, tmp_path):
        model = tmp_path / "short"
        shutil.copytree(published_checkpoint, model)
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 700}))
        out = tmp_path / "out.srt"
        code, _, err = commentate(clip, "--output", out, "--overlay", tmp_path / "out.mp4", model=model)
        assert code == 2
        assert err.splitlines()[-1].startswith("livecc: error: ")
        assert len(list(srt.parse(out.read_text()))) >= 1
        assert probe_video(tmp_path / "out.mp4").duration_s < 14


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """Ten minutes."""
    return write_video(tmp_path_factory.mktemp("long") / "a.mp4", n_frames=3000, fps=5, size_px=(96, 64))


class TestInterruption:
    def start(self, published_checkpoint, *argv, **options):
        """Start the command, with words in every turn, so that they come soon."""
        command = [sys.executable, "-m", "livecc_hf.cli.main", "commentate", *map(str, argv)]
        return subprocess.Popen(
            [*command, "--model", str(published_checkpoint), *GREEDY, "--silence-threshold", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background jobs of a shell
            **options,
        )

    def test_ctrl_c_keeps_what_was_written(self, published_checkpoint, long_clip, tmp_path):
        captions, overlay = tmp_path / "out.srt", tmp_path / "out.mp4"
        process = self.start(published_checkpoint, long_clip, "--output", captions, "--overlay", overlay)
        assert process.stdout.readline().startswith("00:00.0 - 00:03.0")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "interrupted at 0" in err
        assert "Traceback" not in err
        cues = list(srt.parse(captions.read_text(encoding="utf-8")))
        assert cues[0].end.total_seconds() == 3
        assert cues[-1].end.total_seconds() < 590  # not the whole video
        assert probe_video(overlay).duration_s == pytest.approx(cues[-1].end.total_seconds(), abs=1.5)

    @pytest.mark.slow
    def test_a_reader_that_leaves_ends_it_quietly(self, published_checkpoint, long_clip):
        process = self.start(published_checkpoint, long_clip)
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert "Traceback" not in process.stderr.read()
        process.stderr.close()


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5", 1.5), ("1:30", 90), ("0:01:30.5", 90.5), ("0", 0)])
def test_parse_time(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1:60", "1:2:3:4", "nan", "inf", "1:-5"])
def test_parse_time_refuses(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a time"):
        parse_time(text)
