"""Files that are not videos are refused before PyTorch is imported, with the messages of the video reader."""

import subprocess
import sys

import pytest
from media import write_audio, write_video
from PIL import Image

from livecc_hf.assets import demo_clip_path
from livecc_hf.cli.main import main
from livecc_hf.modeling.video_file import VideoReadError
from livecc_hf.sources.early_check import check_is_video
from livecc_hf.video.reader import probe_video


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files that are not videos, by what is wrong with them."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "notes.txt").write_text("not a video\n" * 50)
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (folder / "empty.mp4").touch()
    write_audio(folder / "tone.m4a")
    return {
        "none": folder / "none.mp4",
        "folder": folder,
        "text": folder / "notes.txt",
        "noise": folder / "noise.mp4",
        "empty": folder / "empty.mp4",
        "nameless": "",
        "sound": folder / "tone.m4a",
    }


@pytest.mark.parametrize("kind", ["none", "folder", "text", "noise", "empty", "nameless", "sound"])
def test_messages_equal_those_of_the_reader(files, kind):
    with pytest.raises((OSError, ValueError)) as late:
        probe_video(files[kind])
    with pytest.raises((OSError, ValueError)) as early:
        check_is_video(files[kind])
    assert str(early.value) == str(late.value)
    assert isinstance(early.value, FileNotFoundError) == isinstance(late.value, FileNotFoundError)


def test_a_picture_is_refused(tmp_path):
    Image.new("RGB", (56, 56)).save(tmp_path / "still.jpg")
    with pytest.raises(VideoReadError, match="still.jpg is a picture, not a video; livecc ask answers questions"):
        check_is_video(tmp_path / "still.jpg")


def test_lets_videos_pass(tmp_path):
    check_is_video(demo_clip_path())
    check_is_video(write_video(tmp_path / "12:30 talk.mp4", n_frames=3).rename(tmp_path / "a:b.mp4"))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("text", []),
        ("sound", []),
        ("empty", []),
        ("nameless", []),
        ("video", ["--model", "no/such/folder"]),
        ("video", ["--output", "none/out.srt"]),
        ("video", ["--start", "5", "--end", "4"]),
    ],
)
def test_the_command_refuses_before_pytorch_is_imported(files, kind, options):
    code = (
        "import sys\nfrom livecc_hf.cli.main import main\ncode = main(sys.argv[1:])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\nsys.exit(code)"
    )
    video = files.get(kind, demo_clip_path())
    done = subprocess.run(
        [sys.executable, "-c", code, "commentate", str(video), *options], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("livecc: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["none", "folder", "text", "noise", "empty", "sound"])
def test_the_page_offers_videos_only(files, kind, capsys):
    pytest.importorskip("uvicorn")
    assert main(["demo", str(files[kind]), "--no-browser"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert str(files[kind]) in shown.err
