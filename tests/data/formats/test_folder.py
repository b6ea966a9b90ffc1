"""Folders of narrated videos."""

import os
from pathlib import Path

import pytest

from livecc_hf.data.formats.folder import find_captioned_videos, open_folder
from livecc_hf.data.formats.jsonl import JsonLines
from livecc_hf.data.sources.narrated import FolderEntry, FolderPart
from livecc_hf.data.unusable import UnusableSample


def test_videos_find_their_captions(tmp_path):
    names = ["b.mp4", "b.srt", "b.json", "a.MKV", "a.en.vtt", "sub/c.webm", "sub/c.vtt", "d.mp4", "note.txt", "a2.srt"]
    names += ["._b.mp4", "._b.srt", "e.f137.mp4", "e.srt"]  # side files of macOS, and partial downloads of yt-dlp
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found, bare = find_captioned_videos(tmp_path)
    assert [(str(f.video), str(f.captions)) for f in found] == [
        ("a.MKV", "a.en.vtt"), ("b.mp4", "b.json"), ("sub/c.webm", "sub/c.vtt")
    ]  # fmt: skip
    assert bare == [Path("d.mp4")]


def test_captions_that_cannot_be_read_are_reported_and_do_not_stop_the_run(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_text("")
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello there.\n")
    (tmp_path / "b.srt").symlink_to("b.srt")  # a loop
    (tmp_path / "c.srt").symlink_to("gone.srt")
    part = FolderPart(FolderEntry(str(tmp_path)))
    assert len(part) == 3 and len(part.fingerprint()) == 64
    assert [word.text for word in part.clips.load(0).words] == ["Hello", "there."]
    assert [remark.split(":")[0] for remark in part.clips.remarks] == ["captions of b.mp4", "captions of c.mp4"]
    for row, message in ((1, "b.srt cannot be read: "), (2, "c.srt do not exist")):
        with pytest.raises(UnusableSample, match=message):
            part[row]


def test_a_file_name_that_is_not_utf_8_has_a_fingerprint(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / f"{name}.mp4").write_text("")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / f"{name}.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello.\n")
    assert len(FolderPart(FolderEntry(str(tmp_path))).fingerprint()) == 64
    (tmp_path / f"{name}.jsonl").write_text("{}\n")
    assert len(JsonLines(tmp_path / f"{name}.jsonl", tmp_path / "cache")) == 1


def test_folders_without_anything_to_learn_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find_captioned_videos(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no videos: expected NAME.json"):
        find_captioned_videos(tmp_path)
    (tmp_path / "a.mp4").write_text("")
    with pytest.raises(ValueError, match="none of the 1 videos in .* has captions"):
        find_captioned_videos(tmp_path)
    (tmp_path / "a.srt").write_text("")
    with pytest.raises(ValueError, match="no captions in .* can be used: captions of a.mp4: no words in them"):
        open_folder(tmp_path)
