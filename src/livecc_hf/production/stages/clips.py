"""Cuts the words of videos into clips: at silences, at a greatest length, for fine-tuning at sentence starts.

The rules are those of LiveCC's data production (showlab/livecc, `data/production`), with these differences: the last
word of a video belongs to its clip; a clip's length counts from the start of its first word, not from that word's
end; no clip lasts longer than the limit, where the reference measures fine-tuning clips to their last word's start;
the limit holds with the half second after the last word at which a frame is sampled, since training has no frame for
words that end later than 239.5 s after the clip's start; and a sentence starts at a word whose first letter is a
capital, where the reference accepts only words all in capitals, such as "A".

A batch is cut as a whole, in flat arrays of all its words; only runs longer than the limit are cut one by one.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...captions.arrow import WORD, flat_times
from ..records import CLIP_SCHEMA, DROPPED_SCHEMA
from ..stage import TEXT_WORDS, Stage, StageResult
from .conversations import LAST_FRAME_S

_END_SLACK_S = 2.0  # captions stay a moment longer than the video, and metadata gives its length in whole seconds
_REASONS = np.array([None, "mid_sentence", "past_end", "long", "short", "too_slow", "too_fast"], dtype=object)


@dataclass(frozen=True)
class _Words:
    """The words of a batch one after the other, those of a video by their ends.

    Attributes:
        start_s, end_s: float64 (words,).
        text: (words,).
        row_of: int64 (words,), the row of each word's video.
        faults: why the words of a row cannot be used, by row; such rows have no words here.
    """

    start_s: np.ndarray
    end_s: np.ndarray
    text: pa.StringArray
    row_of: np.ndarray
    faults: dict[int, str]


@dataclass(frozen=True)
class _Pieces:
    """Words that belong together: `first[i]` up to, not including, `stop[i]`; in order, none overlapping.

    Attributes:
        first, stop: int64 (pieces,).
        is_clip: bool (pieces,); others are words before a run's first sentence start.
    """

    first: np.ndarray
    stop: np.ndarray
    is_clip: np.ndarray


@dataclass(frozen=True)
class _ClipStage(Stage):
    """What cutting for pre-training and for fine-tuning share.

    A video's words become pieces; each is a clip in `kept` or a row in `dropped` (reason "short", "long" for a word
    that alone is too long, "past_end" for words more than 2 s after the video's end, where `duration_s` is known, as
    of captions for another version, and the subclass's), with the compared number and how many words and hours it was.
    Pieces are numbered in order, kept or not, so that every id is unique. A video without any clip has a row of its
    own, "no_clip", whose hours are those that no piece has; one whose words cannot be used has reason "error".
    """

    min_s: float = field(default=30.0, metadata={"help": "Shortest clip in seconds; LiveCC's 30."})
    max_s: float = field(
        default=240.0,
        metadata={"help": "Longest clip in seconds, with 0.5 after its last word; LiveCC's 240, 480 frames."},
    )
    max_gap_s: float = field(default=3.0, metadata={"help": "A longer silence ends a clip; LiveCC's 3."})
    max_previous_words: int | None = field(
        default=None, metadata={"help": "At most this many words before a clip are kept; default: all of the video's."}
    )

    takes: ClassVar[str] = "videos"
    makes_clips: ClassVar[bool] = True
    at_sentences: ClassVar[bool]  # clips begin at sentence starts
    by_starts: ClassVar[bool]  # silence and least length are measured between word starts, else between ends

    def __post_init__(self) -> None:
        if not (
            0 <= self.min_s <= self.max_s < math.inf and self.max_s > LAST_FRAME_S and 0 < self.max_gap_s < math.inf
        ):
            raise ValueError(
                f"{self.name}: min_s={self.min_s}, max_s={self.max_s}, max_gap_s={self.max_gap_s}: expected "
                f"0 <= min_s <= max_s, max_s above {LAST_FRAME_S} and a gap above 0, in seconds"
            )
        if self.max_previous_words is not None and self.max_previous_words < 0:
            raise ValueError(f"{self.name}: max_previous_words={self.max_previous_words}: expected 0 or more, or null")

    def __call__(self, batch: pa.Table) -> StageResult:
        """Cuts the videos of a batch in `VIDEO_SCHEMA` into clips in `CLIP_SCHEMA`."""
        words = _flat_words(batch)
        times = words.start_s if self.by_starts else words.end_s
        pieces = _cut(words, times, self._max_spoken_s, self.max_gap_s, self.at_sentences)
        codes, values = self._judge(words, times, pieces, batch["duration_s"].to_numpy())
        text = _JoinedText(words.text)
        kept = self._kept(batch, words, pieces, codes, text)
        return StageResult(kept, self._dropped(batch, words, pieces, (codes, values), text))

    def _judge(
        self, words: _Words, times: np.ndarray, pieces: _Pieces, durations_s: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return for each piece the number of its reason in `_REASONS`, and what was compared."""
        first, last = pieces.first, pieces.stop - 1
        latest_s = durations_s[words.row_of[first]] + _END_SLACK_S  # NaN, which nothing is after, where not known
        seconds = words.end_s[last] - words.start_s[first]
        measured_s = times[last] - words.start_s[first]
        end_s = words.end_s[last]
        conditions = [~pieces.is_clip, end_s > latest_s, seconds > self._max_spoken_s, measured_s < self.min_s]
        values = [np.full(len(first), np.nan), end_s, seconds, measured_s]
        speeds = _ratio(pieces.stop - first, seconds)
        slowest, fastest = self._speed_limits()
        conditions += [speeds < slowest, speeds > fastest]
        values += [speeds, speeds]
        return np.select(conditions, range(1, len(_REASONS)), 0), np.select(conditions, values, np.nan)

    @property
    def _max_spoken_s(self) -> float:
        return self.max_s - LAST_FRAME_S

    def _speed_limits(self) -> tuple[float, float]:
        return 0.0, math.inf

    def _kept(self, batch: pa.Table, words: _Words, pieces: _Pieces, codes: np.ndarray, text: _JoinedText) -> pa.Table:
        is_kept = codes == 0
        first, stop = pieces.first[is_kept], pieces.stop[is_kept]
        rows = words.row_of[first]
        begins = np.searchsorted(words.row_of, rows)
        if self.max_previous_words is not None:
            begins = np.maximum(begins, first - self.max_previous_words)
        columns = {
            name: batch[name].take(pa.array(rows))
            for name in ("video", "title", "category", "language_score")
            if name in batch.column_names
        }
        columns |= {
            "id": _piece_ids(batch, words.row_of[pieces.first]).filter(pa.array(is_kept)),
            "start_s": words.start_s[first],
            "end_s": words.end_s[stop - 1],
            "words": _nested(words, first, stop),
            "previous": text.slices(begins, first),
        }
        return pa.table(
            {item.name: columns.get(item.name, pa.nulls(len(first), item.type)) for item in CLIP_SCHEMA},
            schema=CLIP_SCHEMA,
        )

    def _dropped(
        self,
        batch: pa.Table,
        words: _Words,
        pieces: _Pieces,
        judged: tuple[np.ndarray, np.ndarray],
        text: _JoinedText,
    ) -> pa.Table:
        """Return rows of the pieces that are no clips, then of videos without any, in the order of the batch."""
        codes, values = judged
        piece_rows = words.row_of[pieces.first]
        gone = np.flatnonzero(codes)
        first, stop = pieces.first[gone], pieces.stop[gone]
        rows = piece_rows[gone]
        seconds = words.end_s[stop - 1] - words.start_s[first]
        of_pieces = {
            "id": _piece_ids(batch, piece_rows).take(pa.array(gone)),
            "video": batch["video"].take(pa.array(rows)),
            "stage": pa.array([self.name] * len(gone), pa.string()),
            "reason": pa.array(_REASONS[codes[gone]], pa.string()),
            "value": pa.array(values[gone], from_pandas=True),
            "detail": pc.binary_join_element_wise(pc.cast(pa.array(stop - first), pa.string()), "words", " "),
            "hours": seconds / 3600,
            "text": text.slices(first, np.minimum(first + TEXT_WORDS, stop)),
        }
        bare = np.setdiff1d(np.arange(len(batch)), piece_rows[codes == 0])
        of_videos = self._videos_without_clips(batch, words, bare, np.bincount(rows, seconds, len(batch))[bare])
        table = pa.concat_tables([pa.table(of_pieces, schema=DROPPED_SCHEMA), of_videos])
        return table.take(pa.array(np.argsort(np.concatenate([rows, bare]), kind="stable")))

    def _videos_without_clips(self, batch: pa.Table, words: _Words, rows: np.ndarray, pieces_s: np.ndarray) -> pa.Table:
        videos = batch.take(pa.array(rows))
        n_words = np.bincount(words.row_of, minlength=len(batch))[rows]
        faults = [words.faults.get(row) for row in rows.tolist()]
        duration_s = videos["duration_s"].to_numpy()
        duration_s = np.where(np.isnan(duration_s), pieces_s, duration_s)
        columns = {
            "id": videos["id"],
            "video": videos["video"],
            "stage": pa.array([self.name] * len(rows), pa.string()),
            "reason": pa.array(["no_clip" if fault is None else "error" for fault in faults], pa.string()),
            "value": pa.nulls(len(rows), pa.float64()),
            "detail": pa.array([fault or f"{n} words" for fault, n in zip(faults, n_words, strict=True)], pa.string()),
            "hours": np.maximum(duration_s - pieces_s, 0) / 3600,
            "text": pa.nulls(len(rows), pa.string()),  # its pieces have the words
        }
        return pa.table(columns, schema=DROPPED_SCHEMA)


@dataclass(frozen=True)
class PretrainClips(_ClipStage):
    """Clips for pre-training: cut at silences and at the greatest length, kept at 1 to 4 words a second.

    Silence is measured from a word's end to the next word's end, as the reference does. Reasons besides those of all
    clip stages: "too_slow" and "too_fast".
    """

    min_words_per_s: float = field(default=1.0, metadata={"help": "Slowest speech in words a second; LiveCC's 1."})
    max_words_per_s: float = field(default=4.0, metadata={"help": "Fastest speech in words a second; LiveCC's 4."})

    name: ClassVar[str] = "pretrain_clips"
    at_sentences: ClassVar[bool] = False
    by_starts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_words_per_s <= self.max_words_per_s:
            raise ValueError(
                f"{self.name}: min_words_per_s={self.min_words_per_s}, max_words_per_s={self.max_words_per_s}: "
                "expected 0 <= min_words_per_s <= max_words_per_s"
            )

    def _speed_limits(self) -> tuple[float, float]:
        return self.min_words_per_s, self.max_words_per_s


@dataclass(frozen=True)
class SftClips(_ClipStage):
    """Clips for fine-tuning: as for pre-training, but each begins a sentence, and there is no limit of speed.

    A clip begins with the video's first word, or a word whose first letter is a capital after a word that ends in
    `.`, `?` or `!`. Silence and the least length are measured between word starts, as the reference does. Reason
    besides those of all clip stages: "mid_sentence", for words before a run's first sentence start.
    """

    name: ClassVar[str] = "sft_clips"
    at_sentences: ClassVar[bool] = True
    by_starts: ClassVar[bool] = True


class _JoinedText:
    """All words of a batch in one buffer with spaces between, so that any run of them is a slice."""

    def __init__(self, text: pa.StringArray):
        n_words = len(text)
        self._begins = np.zeros(n_words + 1, np.int64)
        np.cumsum(pc.binary_length(text).to_numpy(zero_copy_only=False) + 1, out=self._begins[1:])
        joined = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, n_words], pa.int32()), text), " ")
        self._bytes = memoryview(joined[0].as_buffer())

    def slices(self, first: np.ndarray, stop: np.ndarray) -> pa.Array | pa.ChunkedArray:
        """Return the words `first[i]` up to `stop[i]` as one string each; "" where there is none."""
        begins, ends = self._begins[first], np.maximum(self._begins[stop] - 1, self._begins[first])
        pairs = zip(begins.tolist(), ends.tolist(), strict=True)
        return pa.array([bytes(self._bytes[begin:end]) for begin, end in pairs], pa.string())


def _flat_words(batch: pa.Table) -> _Words:
    """Return the words of all rows without blank ones and without rows whose times make no sense."""
    found = flat_times(batch["words"], needs_text=True)
    faults = {}
    for row, at in found.faults.items():
        number = at - int(np.searchsorted(found.row_of, row))
        faults[row] = (
            f"word {number} ({found.text[at].as_py()!r}) runs from {found.start_s[at]} to {found.end_s[at]} s: "
            "expected a word and an end after its start"
        )
    found = found.without(faults)
    found = dataclasses.replace(found, text=pc.utf8_trim_whitespace(found.text))
    found = found.only(pc.greater(pc.binary_length(found.text), 0).to_numpy(zero_copy_only=False))
    start_s, end_s, text, row_of = found.start_s, found.end_s, found.text, found.row_of
    if ((np.diff(end_s) < 0) & (np.diff(row_of) == 0)).any():  # overlapping captions
        order = np.lexsort((end_s, row_of))
        start_s, end_s, text = start_s[order], end_s[order], text.take(pa.array(order))
    return _Words(start_s, end_s, text, row_of, faults)


def _cut(words: _Words, times: np.ndarray, max_s: float, max_gap_s: float, at_sentences: bool) -> _Pieces:
    """Return the pieces of all words."""
    n_words = len(times)
    is_break = np.ones(n_words, bool)
    is_break[1:] = (np.diff(words.row_of) != 0) | (np.diff(times) > max_gap_s)
    begins = np.flatnonzero(is_break)
    stops = np.append(begins[1:], n_words) if n_words else begins
    next_allowed = np.arange(n_words)  # for each word, where the next clip may begin
    if at_sentences:
        allowed = _sentence_starts(words)
        next_allowed = np.append(allowed, n_words)[np.searchsorted(allowed, next_allowed)]
    first = np.minimum(next_allowed[begins], stops)
    starts = np.flatnonzero(first < stops)  # runs with a clip
    is_long = words.end_s[stops[starts] - 1] - words.start_s[first[starts]] > max_s
    whole, long = starts[~is_long], starts[is_long]
    cuts = [_cut_run(words, next_allowed, (int(first[run]), int(stops[run])), max_s) for run in long]
    lead = np.flatnonzero(first > begins)
    firsts = [begins[lead], first[whole], *(cut[0] for cut in cuts)]
    ends = [first[lead], stops[whole], *(cut[1] for cut in cuts)]
    is_clip = [np.zeros(len(lead), bool), np.ones(len(whole), bool), *(cut[2] for cut in cuts)]
    order = np.argsort(np.concatenate(firsts))
    return _Pieces(*(np.concatenate(parts)[order] for parts in (firsts, ends, is_clip)))


def _cut_run(
    words: _Words, next_allowed: np.ndarray, run: tuple[int, int], max_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return first, stop and whether it is a clip for the pieces of a run that is longer than the limit."""
    at, stop = run
    first, ends, is_clip = [], [], []
    while at < stop:
        begin = min(int(next_allowed[at]), stop)
        if begin > at:
            first.append(at)
            ends.append(begin)
            is_clip.append(False)
        at = begin
        if at < stop:
            first.append(at)
            at = _last_within(words.end_s, (at, stop), words.start_s[at], max_s)
            ends.append(at)
            is_clip.append(True)
    return np.array(first, np.int64), np.array(ends, np.int64), np.array(is_clip, bool)


def _last_within(end_s: np.ndarray, run: tuple[int, int], start_s: float, max_s: float) -> int:
    """Return the index after the last word that ends within the limit; at least one word is."""
    first, stop = run
    at = first + int(np.searchsorted(end_s[first:stop], start_s + max_s, side="right"))
    # The sum above may round to the other side of the limit than the difference, which is what is compared.
    while at < stop and end_s[at] - start_s <= max_s:
        at += 1
    while at > first + 1 and end_s[at - 1] - start_s > max_s:
        at -= 1
    return max(at, first + 1)


def _sentence_starts(words: _Words) -> np.ndarray:
    """Return the indices of words that begin a sentence."""
    is_first = np.ones(len(words.row_of), bool)
    is_first[1:] = np.diff(words.row_of) != 0
    is_capital = pc.match_substring_regex(words.text, r"^\P{L}*\p{Lu}").to_numpy(zero_copy_only=False)
    closes = pc.match_substring_regex(words.text, r"[.?!]$").to_numpy(zero_copy_only=False)
    follows = np.zeros(len(is_first), bool)
    follows[1:] = closes[:-1]
    return np.flatnonzero(is_first | (is_capital & follows))


def _nested(words: _Words, first: np.ndarray, stop: np.ndarray) -> pa.ListArray:
    """Return the words of each clip as a list."""
    edges = np.zeros(len(words.row_of) + 1, np.int8)
    np.add.at(edges, first, 1)
    np.subtract.at(edges, stop, 1)
    is_used = np.cumsum(edges[:-1]) > 0
    values = pa.StructArray.from_arrays(
        [words.start_s[is_used], words.end_s[is_used], words.text.filter(pa.array(is_used))], fields=list(WORD)
    )
    offsets = np.concatenate([[0], np.cumsum(stop - first)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _piece_ids(batch: pa.Table, rows: np.ndarray) -> pa.Array | pa.ChunkedArray:
    """Return the id of each piece: its video's, "#", its number in the video."""
    numbers = np.arange(len(rows)) - np.searchsorted(rows, rows)
    ids = batch["id"].take(pa.array(rows))
    return pc.binary_join_element_wise(ids, pc.cast(pa.array(numbers), pa.string()), "#")


def _ratio(counts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return counts a second; infinite in no time."""
    with np.errstate(divide="ignore"):
        return counts / seconds
