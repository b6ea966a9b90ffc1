"""Folders of narrated videos."""

from pathlib import Path

import pytest

from livecc_hf.data.formats.folder import find_captioned_videos


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


def test_folders_without_anything_to_learn_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find_captioned_videos(tmp_path / "none")
    (tmp_path / "a.mp4").write_text("")
    with pytest.raises(ValueError, match="none of the 1 videos in .* has captions"):
        find_captioned_videos(tmp_path)
