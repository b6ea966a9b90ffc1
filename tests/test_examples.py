"""The examples run as a reader would run them."""

import runpy
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import webvtt
from media import write_audio
from PIL import Image

from livecc_hf.assets import demo_clip_path

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs an example in this process, where PyTorch is loaded already, and returns what it prints."""

    def ran(name, *args):
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return ran


def test_the_demo_comments_beside_the_events_and_writes_its_files(run, tmp_path):
    out = run("demo.py", "--fast", "--output", tmp_path)
    rows = [line for line in out.splitlines() if " s  " in line and " to " in line]
    said = {line[13:49].strip() for line in rows} - {"..."}
    happened = {line[51:].strip() for line in rows} - {""}
    assert len(said & happened) >= 3  # the same words, in the same row or a later one
    captions = webvtt.read(str(tmp_path / "demo.vtt"))
    assert {caption.text for caption in captions} == said
    sheet = Image.open(tmp_path / "contact-sheet.png")
    assert sheet.width > 1000
    assert len(sheet.convert("RGB").getcolors(maxcolors=2**24)) > 1000


def test_commenting_on_a_file_in_a_process_of_its_own():
    command = [sys.executable, EXAMPLES / "commentate_file.py", demo_clip_path()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert " s  " in done.stdout


def test_pushing_frames(run):
    out = run("push_frames.py")
    assert "Question:" in out
    assert out.count(" s  ") == 6


def test_commenting_on_a_live_source(run):
    """A test pattern, at the clock's pace, stands in for a camera."""
    out = run("live_source.py", "lavfi:testsrc=size=160x120:rate=10:duration=5,realtime")
    assert out.count(" s behind]") >= 2
    assert "The stream has ended." in out


def test_a_live_source_that_fails(run):
    """The message is one line, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    out = run("live_source.py", f"http://me:geheim@127.0.0.1:{port}/a.ts")
    assert "The stream failed: " in out
    assert "connection refused" in out
    assert "geheim" not in out


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("commentate_file.py", [], "usage: python examples/commentate_file.py VIDEO [MODEL]"),
        ("commentate_file.py", ["none.mp4"], "error: no such file: none.mp4"),
        ("commentate_file.py", ["notes.txt"], "notes.txt"),
        ("commentate_file.py", ["clip.mp4", "no/such/model"], "error: "),
        ("live_source.py", [], "usage: python examples/live_source.py SOURCE [MODEL]"),
        ("live_source.py", ["none.mp4"], "error: no such file: none.mp4"),
        ("live_source.py", ["ftp://host/x"], "error: ftp://host/x: unknown scheme"),
        ("watch_server.py", ["none.mp4"], "cannot show none.mp4: No such file or directory"),
        ("watch_server.py", ["tone.m4a"], "cannot show tone.m4a: it has no video stream"),
        ("watch_server.py", ["clip.mp4", "--url", "nowhere"], "no server at nowhere (nowhere isn't a valid URI"),
        ("watch_server.py", ["clip.mp4", "--url", "ws://127.0.0.1:1/v1"], "no server at ws://127.0.0.1:1/v1"),
    ],
)
def test_what_cannot_work_is_one_line(name, arguments, message, tmp_path, monkeypatch):
    """And soon: nothing but that line, and nobody waits."""
    (tmp_path / "notes.txt").write_text("not a video\n" * 50)
    write_audio(tmp_path / "tone.m4a")
    shutil.copy(demo_clip_path(), tmp_path / "clip.mp4")
    if name == "watch_server.py":
        pytest.importorskip("websockets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert message in stop.value.code and len(stop.value.code.splitlines()) == 1


def test_the_demo_says_at_once_that_its_folder_cannot_be_made(run, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(SystemExit):
        run("demo.py", "--output", tmp_path / "taken")
    shown = capsys.readouterr()
    assert shown.out == "" and f"--output {tmp_path / 'taken'}: this folder cannot be made (File exists)" in shown.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("demo.py", [], 130),
        ("commentate_file.py", [demo_clip_path()], 130),
        ("live_source.py", ["lavfi:testsrc=size=160x120:rate=10,realtime"], 0),
    ],
)
def test_ctrl_c_ends_without_a_traceback(name, arguments, code, tmp_path):
    command = [sys.executable, "-u", EXAMPLES / name, *arguments]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while " s  " not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == code, shown
    assert "Traceback" not in shown


def test_every_example_is_tested():
    source = Path(__file__).read_text()
    assert all(f'"{path.name}"' in source for path in EXAMPLES.glob("*.py"))


def test_the_animation_shows_the_words_and_is_small(run, tmp_path):
    from livecc_hf.tiny.rendering import write_video
    from livecc_hf.tiny.world import simulate

    write_video(simulate(-1367, 8), tmp_path / "clip.mp4", size_px=168)
    out = run(
        "animate_demo.py", tmp_path / "clip.webp", "--video", tmp_path / "clip.mp4", "--fps", "2", "--width", "168"
    )
    assert "kB" in out
    image = Image.open(tmp_path / "clip.webp")
    assert image.n_frames > 5
    assert (tmp_path / "clip.webp").stat().st_size < 1_000_000
