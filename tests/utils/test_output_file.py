"""Checks of output files."""

import os

import pytest

from livecc_hf.utils.output_file import check_writable


def test_a_check_changes_nothing(tmp_path):
    (tmp_path / "old.txt").write_text("old")
    check_writable(tmp_path / "old.txt", "--output")
    check_writable(tmp_path / "new.txt", "--output")
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_opened_since_it_would_wait_for_a_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    check_writable(tmp_path / "pipe", "--output")


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^--output .* cannot be written \(it is a folder\): choose another place$"):
        check_writable(tmp_path, "--output")
    with pytest.raises(ValueError, match=r"^--overlay .*x.mp4 cannot be written \(No such file or directory\): "):
        check_writable(tmp_path / "none" / "x.mp4", "--overlay")
