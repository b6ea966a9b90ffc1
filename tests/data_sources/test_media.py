"""Media paths."""

import pytest

from livecc_hf.data.media import resolve_media


def test_local_paths(tmp_path):
    (tmp_path / "v").mkdir()
    file = tmp_path / "v" / "a.mp4"
    file.write_bytes(b"")
    assert resolve_media("v/a.mp4", tmp_path) == file
    assert resolve_media(str(file), "/elsewhere") == file
    with pytest.raises(FileNotFoundError, match=r"b\.mp4 does not exist.*media_root"):
        resolve_media("v/b.mp4", tmp_path)


def test_paths_on_the_hub_while_offline():
    with pytest.raises(FileNotFoundError, match="hf://datasets/me/clips/a.mp4 cannot be fetched"):
        resolve_media("a.mp4", "hf://datasets/me/clips")


@pytest.mark.parametrize("url", ["hf://me/clips/a.mp4", "hf://datasets/me", "hf://datasets/me/clips"])
def test_incomplete_urls_are_refused(url):
    with pytest.raises(ValueError, match=r"expected hf://datasets/USER/REPO"):
        resolve_media(url)


@pytest.mark.parametrize("path", ["../x.mp4", "/etc/x.mp4"])
def test_paths_that_leave_a_repository_are_refused(path):
    with pytest.raises(ValueError, match="leads out of"):
        resolve_media(path, "hf://datasets/me/clips")
