"""`livecc commentate` with several videos, named output files, and conflicting options."""

import sys
from pathlib import Path

import pytest
import srt
from media import write_video

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))
from senders import LiveServer

from livecc_hf.cli.main import main
from livecc_hf.video.reader import probe_video

GREEDY = ["--greedy", "--position-scheme", "reference", "--max-pixels", "50176", "--silence-threshold", "1"]


@pytest.fixture
def commentate(published_checkpoint, capsys):
    """A function that runs the command in this process and returns (exit code, standard output, standard error)."""

    def run(*argv):
        code = main(["commentate", *map(str, argv), "--model", str(published_checkpoint), *GREEDY])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture
def videos(tmp_path):
    """Two videos with the same name in two folders, and one with another name."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    sizes = {"a/match.mp4": 40, "b/match.mp4": 60, "b/other.mkv": 50}
    return [write_video(tmp_path / name, n_frames=n, size_px=(160, 120)) for name, n in sizes.items()]


def said_in(path):
    return [(cue.start.total_seconds(), cue.end.total_seconds(), cue.content) for cue in srt.parse(path.read_text())]


def test_each_video_is_written_to_its_own_file(commentate, videos, tmp_path):
    alone = []
    for n, video in enumerate(videos):
        assert commentate(video, "--output", tmp_path / f"{n}.srt")[0] == 0
        alone.append(said_in(tmp_path / f"{n}.srt"))
    assert [said[-1][1] for said in alone] == [4, 6, 5]

    code, out, err = commentate(*videos, "--output", "{folder}/{stem}.srt")
    assert code == 0, err
    assert err.count("model: ") == 1  # it is loaded once
    assert [said_in(video.with_suffix(".srt")) for video in videos] == alone
    headings = [line for line in out.splitlines() if line.endswith(":")]
    assert headings == [f"{video}:" for video in videos]

    captions = tmp_path / "captions"
    captions.mkdir()
    assert commentate(*videos[1:], "--format", "srt", "--output", captions, "--quiet")[:2] == (0, "")
    assert [said_in(captions / name) for name in ("match.srt", "other.srt")] == alone[1:]
    assert commentate(videos[0], "--output", captions / "{parent}-{name}.srt", "--overlay", captions)[0] == 0
    assert said_in(captions / "a-match.mp4.srt") == alone[0]
    assert probe_video(captions / "match.mp4").duration_s == pytest.approx(4, abs=0.1)


def test_one_that_fails_does_not_stop_the_others(commentate, videos, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a video\n" * 50)
    missing = tmp_path / "missing.mp4"
    captions = tmp_path / "captions"
    captions.mkdir()
    code, _, err = commentate(missing, videos[0], text, videos[2], "--format", "srt", "--output", captions)
    assert code == 2
    assert sorted(path.name for path in captions.iterdir()) == ["match.srt", "other.srt"]
    errors = [line for line in err.splitlines() if line.startswith("livecc: error: ")]
    assert len(errors) == 2 and "missing.mp4" in errors[0] and "is a text file" in errors[1]
    assert err.splitlines()[-1] == f"2 of 4 videos done; failed: {missing}, {text}"
    code, out, err = commentate(missing, text)
    assert (code, out) == (2, "")
    assert "model: " not in err  # no video is left to load it for


def test_an_address_that_cannot_be_opened_does_not_stop_the_others(commentate, videos):
    server = LiveServer()
    try:
        gone = server.url("file.ts")
        server.refuse = 404
        code, out, err = commentate(videos[0], gone, videos[2], "--file")
    finally:
        server.stop()
    assert code == 2
    headings = [line for line in out.splitlines() if line.endswith(":")]
    assert headings == [f"{video}:" for video in (videos[0], videos[2])], err
    assert f"livecc: error: {gone}: 404, not found" in err
    assert err.splitlines()[-1] == f"2 of 3 videos done; failed: {gone}"


def test_conflicting_options_are_refused_before_anything_is_read(commentate, videos, tmp_path):
    a, b, other = videos
    one = tmp_path / "one.srt"
    for arguments, message in (
        ([a, b, "--output", one], f"--output {one}: one file for 2 videos; give a folder that exists, or a pattern"),
        ([a, b, "--output", tmp_path], f"the words of {a} and {b} would both go to {tmp_path}/match.txt"),
        ([a, b, "--output", "none/{stem}.srt"], "none/match.srt: expected a file name in a folder that exists"),
        ([b, other, "--overlay", b.parent], f"--overlay {b} is the video itself"),
        ([a, b, "--overlay", "{folder}/../b/other.mkv"], "would both go to"),
        (
            [a, "--output", tmp_path / "x.mp4", "--overlay", tmp_path / "x.mp4", "--format", "text"],
            "and --overlay would both write",
        ),
        ([a, b, "--format", "srt"], "--format srt: several videos on standard output are text only"),
        (
            [a, "rtsp://me:geheim@host/x"],
            "rtsp://***@host/x is read as live, but several videos are commented on one after",
        ),
        ([a, "-"], "standard input is read as live"),
        (["rtsp://me:geheim@host/x", "--realtime"], "--realtime is for recordings"),
        ([a, "--live", "--realtime"], "--realtime is for recordings"),
        ([a, "--overlay-font", "x.ttf"], "--overlay-font is the font of an overlay"),
        ([a, "--window", "none", "--text-window", "5"], "--text-window: not with --window none"),
        ([a, "--window", "reprefill", "--vision-window-s", "5"], "--vision-window-s: not with --window reprefill"),
        ([a, "--temperature", "2", "--top-k", "5"], "--temperature and --top-k: not with --greedy"),
        ([a, "--reconnects", "3", "--no-verify-tls"], "--reconnects and --no-verify-tls: not for video files"),
    ):
        code, out, err = commentate(*arguments)
        assert (code, out) == (2, ""), message
        assert message in err
        assert err.count("\n") == 1
        assert "geheim" not in err


def test_sampling_options_exclude_greedy(videos, capsys):
    for command in (["commentate", str(videos[0])], ["serve"]):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--greedy", "--do-sample"])
        assert stop.value.code == 2
        assert "argument --do-sample: not allowed with argument --greedy" in capsys.readouterr().err
