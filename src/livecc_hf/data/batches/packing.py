"""Plans which samples share a row, from their token counts, without decoding."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from ...utils.disk import is_disk_full
from ...utils.processes import end_with_parent
from ..unusable import UnusableSample

CHUNK_SAMPLES = 64  # samples that a worker counts per task


@dataclass(frozen=True)
class Packs:
    """The samples of each row, stored in two arrays.

    Attributes:
        indices: int (samples,), sample indices, row after row.
        offsets: int (rows + 1,), the start of each row in `indices`, and the end.
    """

    indices: np.ndarray = field(repr=False)
    offsets: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, row: int) -> np.ndarray:
        """Return the sample indices of a row.

        Raises:
            IndexError: if the row does not exist.
        """
        n = len(self)
        if not -n <= row < n:
            raise IndexError(f"row {row} of {n}")
        row %= n
        return self.indices[self.offsets[row] : self.offsets[row + 1]]

    def padded(self, multiple: int) -> Packs:
        """Return the rows followed by empty ones, up to a multiple of `multiple`."""
        n_empty = -len(self) % multiple
        return Packs(self.indices, np.concatenate([self.offsets, np.repeat(self.offsets[-1:], n_empty)]))

    def row_lengths(self, lengths: np.ndarray) -> np.ndarray:
        """Return the tokens of each row, given those of each sample."""
        ends = np.concatenate([[0], np.cumsum(np.asarray(lengths)[self.indices], dtype=np.int64)])
        return np.diff(ends[self.offsets])


def plan_singles(n_samples: int) -> Packs:
    """Return one row for each sample, in order."""
    dtype = np.int32 if n_samples < 2**31 - 1 else np.int64
    return Packs(np.arange(n_samples, dtype=dtype), np.arange(n_samples + 1, dtype=dtype))


def plan_packs(lengths: np.ndarray, budget: int, seed: int) -> Packs:
    """Pack samples into rows of at most `budget` tokens, by best fit decreasing.

    Samples are placed in order of decreasing length, each in the row with the least space in which it fits. Samples of
    equal length and rows with equal space are handled together, so that the run time depends mostly on the number of
    distinct lengths. The seed decides the order of rows, and of samples of equal length.

    Args:
        lengths: int (samples,), tokens of each sample.
        budget: largest number of tokens in a row.
        seed: the same seed gives the same plan.

    Returns:
        Rows that contain each sample once.

    Raises:
        ValueError: if a sample is longer than the budget, or has no tokens.
    """
    lengths = np.asarray(lengths)
    _check_lengths(lengths, budget)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths)).astype(np.int32 if len(lengths) < 2**31 else np.int64)
    order = order[np.argsort(-lengths[order].astype(np.int64), kind="stable")]
    values, counts = np.unique(lengths, return_counts=True)
    row_of, n_rows = _best_fit_decreasing(values[::-1].tolist(), counts[::-1].tolist(), budget)
    row_of = rng.permutation(n_rows)[row_of]
    indices = order[np.argsort(row_of, kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=n_rows))])
    return Packs(indices, offsets)


def _check_lengths(lengths: np.ndarray, budget: int) -> None:
    if lengths.ndim != 1 or not (np.issubdtype(lengths.dtype, np.integer) or not len(lengths)):
        raise ValueError(f"lengths are {lengths.dtype} of shape {lengths.shape}: expected integers of shape (samples,)")
    if len(lengths) and lengths.min() < 1:
        raise ValueError(f"sample {lengths.argmin()} has {lengths.min()} tokens: expected at least 1")
    if len(lengths) and lengths.max() > budget:
        longest, n_more = int(lengths.argmax()), int((lengths > budget).sum()) - 1
        raise ValueError(
            f"sample {longest} has {lengths[longest]} tokens and {n_more} others are also above the row budget of "
            f"{budget}: raise max_length, or cut clips to it (EncodeOptions.max_tokens)"
        )


def _best_fit_decreasing(lengths: list[int], counts: list[int], budget: int) -> tuple[np.ndarray, int]:
    """Place samples in rows.

    Args:
        lengths: the distinct lengths, descending.
        counts: the number of samples of each length.
        budget: largest number of tokens in a row.

    Returns:
        The row of each sample, longest sample first, and the number of rows.
    """
    row_of = np.empty(sum(counts), dtype=np.int32 if sum(counts) < 2**31 else np.int64)
    spaces: list[int] = []  # the keys of `rows_with`, ascending
    rows_with: dict[int, list[np.ndarray]] = {}  # the rows that have this space left
    n_rows = done = 0
    for length, count in zip(lengths, counts, strict=True):
        end = done + count
        while done < end:
            at = bisect_left(spaces, length)
            if at < len(spaces):
                space = spaces.pop(at)
                parts = rows_with.pop(space)
                rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
            else:
                space = budget
                n_new = -(-(end - done) // (budget // length))  # rounded up
                rows = np.arange(n_rows, n_rows + n_new, dtype=row_of.dtype)
                n_rows += len(rows)
            # A row that took a sample has the least space that fits, so it takes the next ones until it is full.
            each = space // length
            n_full = min(len(rows), (end - done) // each)
            row_of[done : done + n_full * each] = np.repeat(rows[:n_full], each)
            done += n_full * each
            left = [(rows[:n_full], space - each * length)]
            if n_full < len(rows) and done < end:
                row_of[done:end] = rows[n_full]
                left.append((rows[n_full : n_full + 1], space - (end - done) * length))
                n_full, done = n_full + 1, end
            left.append((rows[n_full:], space))
            for some, space_left in left:
                if len(some) and space_left:
                    if space_left not in rows_with:
                        insort(spaces, space_left)
                    rows_with.setdefault(space_left, []).append(some)
    return row_of, n_rows


def token_counts(
    n_samples: int,
    count: Callable[[int], int],
    cache_file: str | Path,
    n_workers: int = 0,
    progress: bool = True,
    start_method: str | None = None,
    recount: bool = True,
) -> np.ndarray:
    """Return the tokens of every sample, from a cache file, or counted in parallel and then cached.

    Counts are saved as they come in, so that an interrupted run continues where it stopped. If several processes use
    the same file, the first one counts and the others wait.

    Args:
        n_samples: number of samples.
        count: maps a sample's index to its tokens; has to be picklable, unless workers are forked.
        cache_file: an `.npy` file, whose name must depend on everything that the counts depend on.
        n_workers: largest number of worker processes; with 0, or few samples, this process counts.
        progress: show a progress bar.
        start_method: start method of `multiprocessing`; `None` for the platform's default.
        recount: count samples again that were unusable when the file was written, since they may have been repaired.

    Returns:
        int32 (samples,), memory-mapped from the file and read-only; 0 for samples for which `count` raises
        `UnusableSample`, or an `OSError` other than for a full disk.

    Raises:
        ValueError: if the file is for another number of samples, or a count is below 1.
        RuntimeError: if a worker process dies.
    """
    cache_file = Path(cache_file)
    cache_file.parent.mkdir(parents=True, exist_ok=True)
    partial = cache_file.with_name(cache_file.name + ".partial")
    with FileLock(f"{cache_file}.lock"):
        is_new = not cache_file.exists()
        if not is_new and recount and (np.load(cache_file, mmap_mode="r") == 0).any():
            shutil.copy(cache_file, partial)
        if is_new or partial.exists():
            _count_missing(_open_partial(partial, n_samples), count, n_workers, progress, start_method)
            partial.replace(cache_file)
    counts = np.load(cache_file, mmap_mode="r")
    _check_size(counts, n_samples, cache_file)
    return counts


def _open_partial(partial: Path, n_samples: int) -> np.memmap:
    """Return the counts so far, with 0 for samples that have not been counted."""
    if partial.exists():
        try:
            counts = np.lib.format.open_memmap(partial, mode="r+")
        except ValueError:
            partial.unlink()  # the run was stopped while it created the file
        else:
            _check_size(counts, n_samples, partial)
            return _allocate(partial, counts)
    # New files, and blocks that were lost in a crash, read as zeros.
    return _allocate(partial, np.lib.format.open_memmap(partial, mode="w+", dtype=np.int32, shape=(n_samples,)))


def _allocate(partial: Path, counts: np.memmap) -> np.memmap:
    """Return the counts after allocating the file's disk blocks.

    Without this, writing to the memory map on a full disk would kill the process.

    Raises:
        OSError: if the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        with partial.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
            except OSError as error:
                error.filename = str(partial)
                raise
    return counts


def _check_size(counts: np.ndarray, n_samples: int, file: Path) -> None:
    if counts.shape != (n_samples,):
        raise ValueError(
            f"{file} has token counts of shape {counts.shape}, but there are {n_samples} samples: delete it to count "
            "them again"
        )


def _count_missing(
    counts: np.memmap, count: Callable[[int], int], n_workers: int, progress: bool, start_method: str | None
) -> None:
    """Count the samples whose count is 0, in place."""
    missing = np.flatnonzero(counts == 0)
    chunks = (missing[i : i + CHUNK_SAMPLES] for i in range(0, len(missing), CHUNK_SAMPLES))
    with tqdm(
        total=len(counts), initial=len(counts) - len(missing), desc="counting tokens", unit="", disable=not progress
    ) as bar:
        n_workers = min(n_workers, len(missing) // CHUNK_SAMPLES)
        results = _count_parallel(count, chunks, n_workers, start_method) if n_workers else _count_serial(count, chunks)
        for chunk, found in results:
            counts[chunk] = found
            bar.update(len(chunk))
    counts.flush()


def _count_serial(count: Callable[[int], int], chunks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, list[int]]]:
    return ((chunk, _count_chunk(chunk, count)) for chunk in chunks)


def _count_parallel(
    count: Callable[[int], int], chunks: Iterator[np.ndarray], n_workers: int, start_method: str | None
) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Count chunks in worker processes; yield each chunk and its counts as it finishes."""
    context = multiprocessing.get_context(start_method)
    pool = ProcessPoolExecutor(n_workers, mp_context=context, initializer=_start_worker, initargs=(count,))
    try:
        running = {pool.submit(_count_chunk, chunk): chunk for chunk in islice(chunks, 4 * n_workers)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
                running |= {pool.submit(_count_chunk, chunk): chunk for chunk in islice(chunks, 1)}
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"one of {n_workers} processes that count tokens died, perhaps out of memory. The counts so far are kept: "
            "start again, with fewer processes if this repeats"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_count: Callable[[int], int] | None = None  # the count function of this worker process


def _start_worker(count: Callable[[int], int]) -> None:
    global _count
    end_with_parent()
    _count = count


def _count_chunk(indices: np.ndarray, count: Callable[[int], int] | None = None) -> list[int]:
    count = count or _count
    if count is None:
        raise RuntimeError("this worker has no count function: start it with _start_worker")
    found = []
    for index in indices.tolist():
        try:
            n_tokens = int(count(index))
        except UnusableSample:
            found.append(0)
            continue
        except OSError as error:  # as in the loader, which skips and reports the sample
            if is_disk_full(error):
                raise
            found.append(0)
            continue
        if n_tokens < 1:
            raise ValueError(f"the count of sample {index} is {n_tokens} tokens: expected at least 1")
        found.append(n_tokens)
    return found
