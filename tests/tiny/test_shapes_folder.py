"""A folder of shapes: narrated videos as a user has them."""

import json

import pytest

from livecc_hf.cli.main import main
from livecc_hf.data.formats.folder import open_folder
from livecc_hf.tiny.folder import write_narrated_folder
from livecc_hf.tiny.narration import NARRATORS
from livecc_hf.video.reader import iter_chunks


def test_one_command_makes_a_folder_that_training_reads(tmp_path, capsys):
    out = tmp_path / "my-shapes"
    assert main(["data", "shapes", str(out), "--videos", "3", "--seconds", "12"]) == 0
    assert f"wrote 3 videos with their words to {out}" in capsys.readouterr().err
    clips = open_folder(out, max_s=30)
    assert (len(clips.videos), len(clips), clips.bare) == (3, 3, [])
    verbs = {word.text.strip(".") for row in range(3) for word in clips.load(row).words}
    assert verbs & set(NARRATORS["other"].values())
    assert not verbs & set(NARRATORS["plain"].values())
    frames = sum(len(chunk.frames) for chunk in iter_chunks(str(out / "shapes-00000.mp4")))
    assert frames == 24


def test_other_numbers_are_other_scenes_and_the_same_numbers_the_same(tmp_path):
    write_narrated_folder(tmp_path / "a", 2, 8)
    write_narrated_folder(tmp_path / "b", 1, 8, first=1)
    one, other = (json.loads((tmp_path / "a" / f"shapes-0000{n}.json").read_text()) for n in (0, 1))
    assert one != other == json.loads((tmp_path / "b" / "shapes-00001.json").read_text())


@pytest.mark.parametrize(("every_s", "said"), [(0.0, ["0 of 2 videos", "1 of 2 videos"]), (60.0, [])])
def test_long_work_says_how_far_it_is(tmp_path, every_s, said):
    lines = []
    write_narrated_folder(tmp_path, 2, 4, say=lines.append, every_s=every_s)
    assert lines == said


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("videos", "0", "videos is 0: expected 1 or more"),
        ("seconds", "3", "seconds is 3: expected 4 or more"),
        ("first", "-1", "first is -1: expected 0 or more"),
    ],
)
def test_invalid_numbers_are_refused(tmp_path, capsys, option, value, message):
    assert main(["data", "shapes", str(tmp_path / "out"), f"--{option}", value]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_narrator_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nobody"):
        write_narrated_folder(tmp_path, 1, narrator="nobody")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    assert main(["data", "shapes", str(tmp_path / "notes.txt")]) == 2
    assert "notes.txt cannot be made a folder (it is a file): choose another place" in capsys.readouterr().err
