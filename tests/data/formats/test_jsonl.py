"""Random access to the lines of large files."""

import json
import os
import pickle
import subprocess
import sys
from itertools import accumulate

import numpy as np
import pytest

from livecc_hf.data.formats.jsonl import JsonLines, find_offsets

VALUES = [[{"n": i, "text": "é" * i}] for i in range(200)]


def write(path, values, listed=None, joint="\n", end="\n"):
    """Write a value in each line; `listed` turns the correct offsets into those of the last line."""
    lines = [json.dumps(value, ensure_ascii=False).encode() for value in values]
    offsets, at = [], 0
    for line in lines:
        offsets.append(at)
        at += len(line) + len(joint)
    if listed is not None:
        lines.append(json.dumps(listed(offsets)).encode())
    path.write_bytes(joint.encode().join(lines) + end.encode())
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.jsonl"


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
@pytest.mark.parametrize("listed", [None, lambda offsets: offsets])
@pytest.mark.parametrize("joint", ["\n", "\r\n"])
def test_every_line_is_reached(path, tmp_path, listed, end, joint):
    lines = JsonLines(write(path, VALUES, listed, joint, end), tmp_path / "cache")
    assert len(lines) == len(VALUES)
    assert [lines[i] for i in (199, 0, 77)] == [VALUES[i] for i in (199, 0, 77)]
    with pytest.raises(IndexError, match="line 200"):
        lines[200]


@pytest.mark.parametrize(
    "listed",
    [lambda o: [x + 3 for x in o], lambda o: o[:50] + [x + 1 for x in o[50:]], lambda o: o[::-1], lambda o: o[1:]],
    ids=["shifted", "shifted later", "reversed", "first missing"],
)
def test_wrong_offsets_are_reported_and_computed_again(path, tmp_path, listed, caplog):
    lines = JsonLines(write(path, VALUES, listed), tmp_path / "cache")
    assert "lists wrong offsets" in caplog.text
    assert len(lines) == len(VALUES)
    assert lines[199] == VALUES[199]


def test_a_last_line_of_numbers_is_never_data(path, tmp_path, caplog):
    lines = JsonLines(write(path, VALUES[:3], lambda offsets: [7]), tmp_path / "cache")
    assert len(lines) == 3
    assert "lists wrong offsets" in caplog.text


def test_offsets_are_cached_until_the_file_changes(path, tmp_path, monkeypatch):
    import livecc_hf.data.formats.jsonl as module

    calls = []
    monkeypatch.setattr(module, "find_offsets", lambda p: calls.append(p) or find_offsets(p))
    write(path, VALUES)
    for _ in range(2):
        JsonLines(path, tmp_path / "cache")
    assert len(calls) == 1
    write(path, VALUES[:50])
    os.utime(path, ns=(1, 1))
    assert len(JsonLines(path, tmp_path / "cache")) == 50
    assert len(calls) == 2


def test_it_can_be_pickled(path, tmp_path):
    lines = JsonLines(write(path, VALUES), tmp_path / "cache")
    assert pickle.loads(pickle.dumps(lines))[5] == VALUES[5]


def test_blank_lines_do_not_count(path, tmp_path):
    path.write_bytes(b'{"a": 1}\n\n\n{"a": 2}\n')
    lines = JsonLines(path, tmp_path / "cache")
    assert [lines[0], lines[1], len(lines)] == [{"a": 1}, {"a": 2}, 2]


def test_lines_are_read_without_pread(path, tmp_path, monkeypatch):
    """As on Windows, which does not have it."""
    monkeypatch.delattr("os.pread")
    lines = JsonLines(write(path, VALUES, lambda offsets: offsets), tmp_path / "cache")
    assert [lines[i] for i in (199, 0, 77)] == [VALUES[i] for i in (199, 0, 77)]
    assert len(lines.fingerprint()) == 64


def test_a_line_nested_too_deeply_is_one_clear_error(path, tmp_path):
    path.write_bytes(b'{"a": 1}\n' + b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(ValueError, match=r"line 2 of .*a\.jsonl is not JSON: maximum recursion depth"):
        JsonLines(path, tmp_path / "cache")[1]


def test_errors_name_the_file_and_line(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        JsonLines(tmp_path / "none.jsonl")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        JsonLines(path, tmp_path / "cache")
    path.write_bytes(b'{"a": 1}\nnot json\n')
    with pytest.raises(ValueError, match=r"line 2 of .*a\.jsonl is not JSON"):
        JsonLines(path, tmp_path / "cache")[1]


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 64])
@pytest.mark.parametrize(
    "listed", [None, lambda offsets: offsets, lambda offsets: [0, *offsets[2:]], lambda o: o[::-1]]
)
def test_lines_are_found_wherever_blocks_end(path, monkeypatch, block_bytes, listed):
    """Lines, blank lines and the list of offsets may cross the borders of the blocks in which files are read."""
    import livecc_hf.data.formats.jsonl as module

    write(path, VALUES[:12], listed, end="\n \r\n\n")
    whole = find_offsets(path)
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    assert find_offsets(path).tolist() == whole.tolist()
    assert len(whole) == 13


def test_lines_of_white_space_do_not_count(path, tmp_path):
    path.write_bytes(b'\n  \t\r\n {"a": 1}\n\n\r\n' + b" " * 1000 + b'\n\t{"a": 2}\n\v\f\n   {"a": 3}')
    lines = JsonLines(path, tmp_path / "cache")
    assert [lines[i]["a"] for i in range(len(lines))] == [1, 2, 3]


@pytest.mark.parametrize(
    "last", [b"[0, 1 2]", b"[0,,9]", b"[0, 9,]", b"[]", b"[ ]", b"[99999999999999999999]", b"[,]", b"[0]x"]
)
def test_a_malformed_list_of_offsets(path, last):
    """A wrong list of numbers is ignored, and anything else counts as a line."""
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n' + last + b"\n")
    assert find_offsets(path)[:2].tolist() == [0, 9]


@pytest.mark.slow
@pytest.mark.parametrize("listed", [False, True], ids=["scanned", "listed"])
def test_five_million_lines_open_in_little_memory(path, tmp_path, listed):
    """600 MB take seconds at the first opening, none at the next, and far below 1 GB of memory."""
    n_lines, offsets, at = 5_000_000, [], 0
    with path.open("wb") as file:
        for first in range(0, n_lines, 100_000):
            lines = [b'{"n": %d, "x": "%s"}\n' % (n, b"y" * (n % 200)) for n in range(first, first + 100_000)]
            file.write(b"".join(lines))
            if listed:
                offsets += accumulate(map(len, lines[:-1]), initial=at)
                at += sum(map(len, lines))
        if listed:
            file.write(json.dumps(offsets).encode())
    code = (
        "import random, sys, time; from livecc_hf.data.formats.jsonl import JsonLines\n"
        "for _ in range(2):\n"
        "    start = time.monotonic(); lines = JsonLines(sys.argv[1], sys.argv[2])\n"
        "    print(len(lines), time.monotonic() - start)\n"
        "picked = [0, len(lines) - 1, *random.Random(0).sample(range(len(lines)), 20_000)]\n"
        "assert all(lines[i] == {'n': i, 'x': 'y' * (i % 200)} for i in picked)\n"
        "status = open('/proc/self/status').read().splitlines()\n"
        "print(int(next(line for line in status if line.startswith('VmHWM')).split()[1]) * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "c"], capture_output=True, text=True, check=True
    )
    print(path.stat().st_size, done.stdout)
    first, second, peak = done.stdout.splitlines()
    assert first.split()[0] == second.split()[0] == "5000000"
    assert float(second.split()[1]) < 0.5 < 60 > float(first.split()[1])
    assert int(peak) < 0.5e9
    assert "wrong offsets" not in done.stderr
    assert np.load(next((tmp_path / "c").glob("*.npy")), mmap_mode="r").dtype == np.int64
    path.unlink()
