"""Atomic writes of files."""

import os

import pytest

from livecc_hf.utils import atomic
from livecc_hf.utils.atomic import atomic_write, write_json, write_text


def test_a_file_is_there_with_its_folder_when_all_went_well(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "gr\u00fc\u00dfe")
    write_json(tmp_path / "b.json", {"a": [1]}, sync=False)
    assert (tmp_path / "new" / "a.txt").read_bytes() == "gr\u00fc\u00dfe".encode()
    assert (tmp_path / "b.json").read_text() == '{\n "a": [\n  1\n ]\n}'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "new"]


@pytest.mark.parametrize("keeps_suffix", [False, True])
def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path, keeps_suffix):
    path = tmp_path / "clip.mp4"
    path.write_text("older")
    with pytest.raises(RuntimeError), atomic_write(path, keeps_suffix=keeps_suffix) as partial:
        partial.write_text("half")
        assert partial.name.startswith(".clip") and (partial.suffix == ".mp4") == keeps_suffix
        raise RuntimeError
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keeps_suffix", [False, True])
def test_a_file_may_have_the_longest_possible_name(tmp_path, keeps_suffix):
    path = tmp_path / ("\u00e9" * 125 + "x.mp4")
    with atomic_write(path, keeps_suffix=keeps_suffix) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_long_names_with_one_beginning_are_written_at_once(tmp_path):
    first, second = (tmp_path / ("x" * 240 + f"{n}.json") for n in (1, 2))
    with atomic_write(first) as partial, atomic_write(second) as other:
        partial.write_text("1")
        other.write_text("2")
    assert (first.read_text(), second.read_text()) == ("1", "2")


@pytest.mark.parametrize("is_windows", [False, True])
def test_windows_opens_files_for_writing_and_no_folders(tmp_path, monkeypatch, is_windows):
    opened = []

    def open_there(path, flags, *others):
        opened.append((os.path.basename(path), flags & os.O_RDWR == os.O_RDWR))  # noqa: PTH119
        return original(path, flags, *others)

    original = os.open
    monkeypatch.setattr(atomic, "_IS_WINDOWS", is_windows)
    monkeypatch.setattr(atomic.os, "open", open_there)
    write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "a.txt").read_text() == "text"
    file, *folders = opened
    assert file[1] == is_windows and folders == ([] if is_windows else [(tmp_path.name, False)])
