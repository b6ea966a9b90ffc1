"""Samples are packed into rows by their token counts, which are counted in parallel and cached."""

import errno
import multiprocessing
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_hf.data.batches.packing import CHUNK_SAMPLES, plan_packs, plan_singles, token_counts
from livecc_hf.data.unusable import UnusableSample


def best_fit_decreasing(lengths: list[int], budget: int) -> list[int]:
    """Return the fill of each row by the textbook algorithm."""
    rows = []
    for length in sorted(lengths, reverse=True):
        fits = [row for row in range(len(rows)) if rows[row] + length <= budget]
        if fits:
            rows[max(fits, key=lambda row: rows[row])] += length
        else:
            rows.append(length)
    return sorted(rows)


@st.composite
def cases(draw):
    budget = draw(st.integers(1, 60))
    lengths = draw(st.lists(st.integers(1, budget), max_size=80))
    return np.array(lengths, dtype=np.int32), budget, draw(st.integers(0, 2**32))


@settings(max_examples=300, deadline=None)
@given(cases())
def test_each_sample_is_in_one_row_as_best_fit_decreasing_puts_it(case):
    lengths, budget, seed = case
    packs = plan_packs(lengths, budget, seed)
    assert sorted(np.concatenate([*packs, []]).tolist()) == list(range(len(lengths)))
    assert all(len(row) for row in packs)
    fills = [int(lengths[row].sum()) for row in packs]
    assert max(fills, default=0) <= budget
    assert packs.row_lengths(lengths).tolist() == fills
    assert sorted(fills) == best_fit_decreasing(lengths.tolist(), budget)
    again = plan_packs(lengths, budget, seed)
    assert all(np.array_equal(a, b) for a, b in zip(packs, again, strict=True))


def test_the_seed_shuffles_samples_and_rows():
    lengths = np.random.default_rng(0).integers(1, 300, 20_000)
    first, second = (plan_packs(lengths, 1000, seed) for seed in (1, 2))
    assert len(first) == len(second)
    assert {tuple(sorted(row)) for row in first} != {tuple(sorted(row)) for row in second}
    assert first.row_lengths(lengths).tolist() != second.row_lengths(lengths).tolist()
    # Rows and samples are not ordered by length.
    thirds = np.array_split(np.concatenate([lengths[row] for row in first]), 3)
    assert max(part.mean() for part in thirds) < 1.15 * min(part.mean() for part in thirds)


def test_a_million_clips_are_packed_in_seconds_with_little_space_left():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(8.3, 0.7, 1_000_000), 200, 24_576).astype(np.int32)  # median 4000 tokens
    start_s = time.process_time()
    packs = plan_packs(lengths, 24_576, seed=0)
    assert time.process_time() - start_s < 8
    assert lengths.sum() / (len(packs) * 24_576) > 0.99
    assert np.array_equal(np.sort(packs.indices), np.arange(len(lengths)))


def test_rows_are_indexed_like_a_list():
    packs = plan_packs(np.array([3, 3, 3]), 6, seed=0)
    assert len(packs) == 2
    assert np.array_equal(packs[-1], packs[1])
    with pytest.raises(IndexError, match="row 2 of 2"):
        packs[2]
    assert [row.tolist() for row in plan_singles(3)] == [[0], [1], [2]]
    assert len(plan_packs(np.zeros(0, dtype=np.int64), 8, seed=0)) == len(plan_singles(0)) == 0


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([4, 12, 9, 3], "sample 1 has 12 tokens and 1 others.*budget of 8.*max_length"),
        ([4, 0], "sample 1 has 0 tokens"),
        ([4.5], "float64"),
        ([[4]], r"\(1, 1\)"),
    ],
)
def test_lengths_that_cannot_be_packed_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        plan_packs(np.array(lengths), 8, seed=0)


class Counter:
    """Counts tokens and logs each call; can be pickled, as spawned processes need."""

    def __init__(self, log: Path, dies_at: int | None = None, sleep_s: float = 0):
        self.log, self.dies_at, self.sleep_s = log, dies_at, sleep_s

    def __call__(self, index: int) -> int:
        if index == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.sleep_s)
        with self.log.open("a") as file:
            file.write(f"{index}\n")
        if index == 5:
            raise UnusableSample("no_words", "silence")
        return 10 + index % 7

    def counted(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()]


def expected(n: int) -> list[int]:
    return [0 if index == 5 else 10 + index % 7 for index in range(n)]


@pytest.mark.parametrize(
    ("n_workers", "start_method"), [(0, None), (2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)]
)
def test_counts_once_and_then_reads(tmp_path, n_workers, start_method):
    n = 3 * CHUNK_SAMPLES + 7
    counter = Counter(tmp_path / "log")
    file = tmp_path / "cache/lengths.npy"
    counts = token_counts(n, counter, file, n_workers, progress=False, start_method=start_method)
    assert counts.tolist() == expected(n)
    assert isinstance(counts, np.memmap) and not counts.flags.writeable
    assert sorted(counter.counted()) == list(range(n))
    again = token_counts(n, counter, file, n_workers, progress=False, recount=False)
    assert again.tolist() == counts.tolist()
    assert len(counter.counted()) == n
    token_counts(n, counter, file, n_workers, progress=False)
    assert counter.counted()[n:] == [5]  # unusable samples may have been repaired
    assert not list(tmp_path.glob("**/*.partial"))


def test_a_dying_process_is_an_error_that_keeps_the_counts(tmp_path):
    n = 48 * CHUNK_SAMPLES
    file = tmp_path / "lengths.npy"
    dying = Counter(tmp_path / "log", dies_at=n - 10)
    with pytest.raises(RuntimeError, match="died.*fewer processes"):
        token_counts(n, dying, file, 2, progress=False, start_method="fork")
    assert not file.exists()
    assert np.count_nonzero(np.load(tmp_path / "lengths.npy.partial")) >= CHUNK_SAMPLES
    counter = Counter(tmp_path / "second")
    assert token_counts(n, counter, file, 2, progress=False).tolist() == expected(n)
    assert len(counter.counted()) < n
    assert multiprocessing.active_children() == []


def _count_in_session(n: int, log: Path, file: Path) -> None:
    os.setsid()
    token_counts(n, Counter(log, sleep_s=0.001), file, 2, progress=False, start_method="fork")


def test_a_killed_run_continues_where_it_stopped(tmp_path):
    n = 32 * CHUNK_SAMPLES  # 1 s of counting
    log, file = tmp_path / "log", tmp_path / "lengths.npy"
    partial = Path(f"{file}.partial")
    process = multiprocessing.get_context("fork").Process(target=_count_in_session, args=(n, log, file))
    process.start()
    deadline_s = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 128 and np.count_nonzero(np.load(partial))):
        assert time.monotonic() < deadline_s and process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    kept = np.flatnonzero(np.load(partial))
    assert 0 < len(kept) < n
    while _members(process.pid):  # its workers must not outlive it
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    second = Counter(tmp_path / "second")
    assert token_counts(n, second, file, progress=False).tolist() == expected(n)
    assert sorted(second.counted()) == sorted(set(range(n)) - set(kept.tolist()))


def _members(session: int) -> list[int]:
    """Return the live processes of a session."""
    alive = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            alive.append(int(status.parent.name))
    return alive


def test_a_truncated_partial_file_is_created_again(tmp_path):
    (tmp_path / "lengths.npy.partial").write_bytes(b"\x93NUMPY")
    counts = token_counts(4, lambda index: index + 1, tmp_path / "lengths.npy", progress=False)
    assert counts.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["lengths.npy", "lengths.npy.partial"])
def test_counts_of_other_data_are_refused(tmp_path, name):
    np.save((tmp_path / name).open("wb"), np.ones(3, dtype=np.int32))
    with pytest.raises(ValueError, match=r"\(3,\).*4 samples.*delete"):
        token_counts(4, lambda index: 1, tmp_path / "lengths.npy", progress=False)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_an_invalid_count_and_other_errors_are_raised(tmp_path, n_workers):
    with pytest.raises(ValueError, match="sample 2 is 0 tokens"):
        token_counts(CHUNK_SAMPLES, _zero_at_two, tmp_path / "a.npy", n_workers, progress=False)
    with pytest.raises(ZeroDivisionError):
        token_counts(CHUNK_SAMPLES, _divide, tmp_path / "b.npy", n_workers, progress=False)


def test_a_file_that_cannot_be_opened_counts_as_unusable_but_a_full_disk_is_an_error(tmp_path):
    def count(number: int, index: int) -> int:
        if index == 1:
            raise OSError(number, os.strerror(number))
        return 7

    for number in (errno.ENAMETOOLONG, errno.EACCES):
        file = tmp_path / f"{number}.npy"
        assert token_counts(3, partial(count, number), file, progress=False).tolist() == [7, 0, 7]
    with pytest.raises(OSError, match="No space left"):
        token_counts(3, partial(count, errno.ENOSPC), tmp_path / "full.npy", progress=False)


def _zero_at_two(index: int) -> int:
    return 2 - index or 0


def _divide(index: int) -> int:
    return 1 // index


def test_a_full_disk_is_an_error_before_the_memory_map_is_written(tmp_path):
    """Writing to a memory map on a full disk would kill the process."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        with pytest.raises(OSError, match=r"No space left on device: '.*counts.npy.partial'"):
            token_counts(100_000, lambda index: 1, small / "counts.npy", progress=False)
    finally:
        subprocess.run(["umount", small], check=True)
