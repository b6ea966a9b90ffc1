"""The stages `pretrain_clips` and `sft_clips`: cut the words of videos into clips.

Clips end at silences and at the length limit; fine-tuning clips also start at sentence starts. The rules are those of
LiveCC's data production (showlab/livecc, `data/production`), except that:

- The last word of a video is part of its clip; the reference loses it.
- A clip's length counts from the start of its first word, not from that word's end.
- The length limit holds for every clip. The reference measures fine-tuning clips only to the start of their last word.
- The limit includes the half second after the last word in which a frame is sampled: training has no frame for words
  that end later than 239.5 s after the clip's start.
- A sentence starts at a word whose first letter is a capital. The reference accepts only words all in capitals, such
  as "A"; the option `sentence_start` chooses between the two.
- In scripts without capitals, a sentence starts after the mark that ends the sentence before it; in Thai and Lao, which
  have no such mark, at any word.
- If most characters of a clip are of a script without spaces, its speed is measured in characters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...captions.arrow import WORD
from ...captions.segmentation import without_needless_spaces
from ...modeling.grammar import FRAME_STEP_S
from ...utils.text import counted
from ..schemas import CLIP_SCHEMA, DROPPED_SCHEMA
from .base import TEXT_WORDS, Stage, StageResult
from .cutting import ALL_CAPITALS, CAPITAL_FIRST, Pieces, Words, characters_of, cut, flat_words, sentence_starts

_END_SLACK_S = 2.0  # captions may end a little after the video, since metadata gives its length in whole seconds
_REASONS = np.array(
    [
        *(None, "mid_sentence", "past_end", "long", "short", "too_slow", "too_fast"),
        *("too_slow_characters", "too_fast_characters"),
    ],
    dtype=object,
)
SENTENCE_STARTS = ("capital", "all_capitals")
_NO_LIMITS = (0.0, math.inf)


@dataclass(frozen=True)
class _ClipStage(Stage):
    """The base of both clip stages.

    A video's words are cut into pieces. Each piece becomes a clip in `kept`, or a row in `dropped` with the number that
    was compared, its words and its hours. All pieces of a video are numbered in order, so that every id is unique.

    Reasons of both stages: `short`; `long` (a single word that is too long); `past_end` (the piece ends more than 2 s
    after `duration_s`, as in captions of another version of the video). A video without any clip also gets a row
    `no_clip`, whose hours are those outside all pieces, or a row `error` if its words cannot be used.
    """

    min_s: float = field(default=30.0, metadata={"help": "Shortest clip in seconds; LiveCC's 30."})
    max_s: float = field(
        default=240.0,
        metadata={"help": "Longest clip in seconds, including 0.5 s after its last word; LiveCC's 240, or 480 frames."},
    )
    max_gap_s: float = field(default=3.0, metadata={"help": "A longer silence ends a clip; LiveCC's 3."})
    max_previous_words: int | None = field(
        default=None, metadata={"help": "Keep at most this many words as the text before a clip; default: all."}
    )

    takes: ClassVar[str] = "videos"
    makes_clips: ClassVar[bool] = True
    by_starts: ClassVar[bool]  # whether silence and the minimum length are measured between word starts, not word ends

    def __post_init__(self) -> None:
        if not (
            0 <= self.min_s <= self.max_s < math.inf and self.max_s > FRAME_STEP_S and 0 < self.max_gap_s < math.inf
        ):
            raise ValueError(
                f"{self.name}: min_s={self.min_s}, max_s={self.max_s}, max_gap_s={self.max_gap_s}: expected "
                f"0 <= min_s <= max_s, max_s above {FRAME_STEP_S} and a gap above 0, in seconds"
            )
        if self.max_previous_words is not None and self.max_previous_words < 0:
            raise ValueError(f"{self.name}: max_previous_words={self.max_previous_words}: expected 0 or more, or null")

    def __call__(self, batch: pa.Table) -> StageResult:
        """Cut the videos of a batch in `VIDEO_SCHEMA` into clips in `CLIP_SCHEMA`."""
        words = flat_words(batch)
        times = words.start_s if self.by_starts else words.end_s
        starts = self._sentence_starts(words)
        pieces = cut(words, times, self._max_spoken_s, self.max_gap_s, starts)
        codes, values = self._judge(words, times, pieces, batch["duration_s"].to_numpy())
        text = _JoinedText(words.text)
        kept = self._kept(batch, words, pieces, codes, text)
        return StageResult(kept, self._dropped(batch, words, pieces, (codes, values), text))

    def _judge(
        self, words: Words, times: np.ndarray, pieces: Pieces, durations_s: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return for each piece the index of its reason in `_REASONS`, and the number that was compared."""
        first, last = pieces.first, pieces.stop - 1
        latest_s = durations_s[words.row_of[first]] + _END_SLACK_S  # NaN if unknown: comparisons with it are false
        begin_s = _begins_s(words, first)
        seconds = words.end_s[last] - begin_s
        measured_s = times[last] - begin_s
        end_s = words.end_s[last]
        conditions = [~pieces.is_clip, end_s > latest_s, seconds > self._max_spoken_s, measured_s < self.min_s]
        values = [np.full(len(first), np.nan), end_s, seconds, measured_s]
        n_characters, is_by_characters = characters_of(words.text, pieces)
        for limits, counts, is_measured in (
            (self._word_limits(), pieces.stop - first, ~is_by_characters),
            (self._character_limits(), n_characters, is_by_characters),
        ):
            speeds = _ratio(counts, seconds)
            conditions += [is_measured & (speeds < limits[0]), is_measured & (speeds > limits[1])]
            values += [speeds, speeds]
        return np.select(conditions, range(1, len(_REASONS)), 0), np.select(conditions, values, np.nan)

    @property
    def _max_spoken_s(self) -> float:
        return self.max_s - FRAME_STEP_S  # so that a frame is sampled after the last word

    def _word_limits(self) -> tuple[float, float]:
        return _NO_LIMITS

    def _character_limits(self) -> tuple[float, float]:
        return _NO_LIMITS

    def _sentence_starts(self, words: Words) -> np.ndarray | None:
        """Return the indices of the words at which a clip may begin; `None`: any word."""
        return None

    def _kept(self, batch: pa.Table, words: Words, pieces: Pieces, codes: np.ndarray, text: _JoinedText) -> pa.Table:
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
            "start_s": _begins_s(words, first),
            "end_s": words.end_s[stop - 1],
            "words": _nest_words(words, first, stop),
            "previous": without_needless_spaces(text.slices(begins, first)),
        }
        return pa.table(
            {item.name: columns.get(item.name, pa.nulls(len(first), item.type)) for item in CLIP_SCHEMA},
            schema=CLIP_SCHEMA,
        )

    def _dropped(
        self,
        batch: pa.Table,
        words: Words,
        pieces: Pieces,
        judged: tuple[np.ndarray, np.ndarray],
        text: _JoinedText,
    ) -> pa.Table:
        """Return a row for each piece that is not a clip, and for each video without a clip, in the batch's order."""
        codes, values = judged
        piece_rows = words.row_of[pieces.first]
        gone = np.flatnonzero(codes)
        first, stop = pieces.first[gone], pieces.stop[gone]
        n_words = pa.array(stop - first)
        rows = piece_rows[gone]
        seconds = np.maximum(words.end_s[stop - 1] - _begins_s(words, first), 0)
        of_pieces = {
            "id": _piece_ids(batch, piece_rows).take(pa.array(gone)),
            "video": batch["video"].take(pa.array(rows)),
            "stage": pa.array([self.name] * len(gone), pa.string()),
            "reason": pa.array(_REASONS[codes[gone]], pa.string()),
            "value": pa.array(values[gone], from_pandas=True),
            "detail": pc.binary_join_element_wise(
                pc.cast(n_words, pa.string()), pc.if_else(pc.equal(n_words, 1), "word", "words"), " "
            ),
            "hours": seconds / 3600,
            "text": text.slices(first, np.minimum(first + TEXT_WORDS, stop)),
            "start_s": _begins_s(words, first),
            "end_s": words.end_s[stop - 1],
            "words": _nest_words(words, first, np.minimum(first + TEXT_WORDS, stop)),
            "faces": pa.nulls(len(gone), DROPPED_SCHEMA.field("faces").type),
        }
        bare = np.setdiff1d(np.arange(len(batch)), piece_rows[codes == 0])
        of_videos = self._videos_without_clips(batch, words, bare, np.bincount(rows, seconds, len(batch))[bare])
        table = pa.concat_tables([pa.table(of_pieces, schema=DROPPED_SCHEMA), of_videos])
        return table.take(pa.array(np.argsort(np.concatenate([rows, bare]), kind="stable")))

    def _videos_without_clips(self, batch: pa.Table, words: Words, rows: np.ndarray, pieces_s: np.ndarray) -> pa.Table:
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
            "detail": pa.array(
                [fault or counted(int(n), "word") for fault, n in zip(faults, n_words, strict=True)], pa.string()
            ),
            "hours": np.maximum(duration_s - pieces_s, 0) / 3600,
            "text": pa.nulls(len(rows), pa.string()),  # the rows of the pieces have the words
        }
        columns |= {item.name: pa.nulls(len(rows), item.type) for item in DROPPED_SCHEMA if item.name not in columns}
        return pa.table(columns, schema=DROPPED_SCHEMA)


@dataclass(frozen=True)
class PretrainClips(_ClipStage):
    """Cuts clips for pre-training at silences and at the length limit, and keeps those with 1 to 4 words per second.

    Silence is measured from a word's end to the next word's end, as in the reference.

    Dropped: `short`, `long`, `past_end`, `no_clip`, `error` as in every clip stage; `too_slow`, `too_fast` (value:
    words per second). If most characters of a clip are of a script without spaces, such as Chinese, Japanese or Thai:
    `too_slow_characters`, `too_fast_characters` (value: characters per second). In the scripts of Southeast Asia, whose
    syllables have about three characters, three characters count as one.
    """

    min_words_per_s: float = field(default=1.0, metadata={"help": "Slowest speech in words per second; LiveCC's 1."})
    max_words_per_s: float = field(default=4.0, metadata={"help": "Fastest speech in words per second; LiveCC's 4."})
    min_chars_per_s: float = field(
        default=1.5, metadata={"help": "Slowest speech in characters per second, in scripts without spaces; ours."}
    )
    max_chars_per_s: float = field(
        default=8.0, metadata={"help": "Fastest speech in characters per second, in scripts without spaces; ours."}
    )

    name: ClassVar[str] = "pretrain_clips"
    by_starts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_words_per_s <= self.max_words_per_s:
            raise ValueError(
                f"{self.name}: min_words_per_s={self.min_words_per_s}, max_words_per_s={self.max_words_per_s}: "
                "expected 0 <= min_words_per_s <= max_words_per_s"
            )
        if not 0 <= self.min_chars_per_s <= self.max_chars_per_s:
            raise ValueError(
                f"{self.name}: min_chars_per_s={self.min_chars_per_s}, max_chars_per_s={self.max_chars_per_s}: "
                "expected 0 <= min_chars_per_s <= max_chars_per_s"
            )

    def _word_limits(self) -> tuple[float, float]:
        return self.min_words_per_s, self.max_words_per_s

    def _character_limits(self) -> tuple[float, float]:
        return self.min_chars_per_s, self.max_chars_per_s


@dataclass(frozen=True)
class SftClips(_ClipStage):
    """Cuts clips for fine-tuning as `pretrain_clips` does, except that each begins a sentence, at any speed.

    A clip begins with the video's first word, or with a word whose first letter is a capital and that follows a word
    ending in `.`, `?` or `!`. Silence and the minimum length are measured between word starts, as in the reference.

    Dropped: `short`, `long`, `past_end`, `no_clip`, `error` as in every clip stage; `mid_sentence` (the words between a
    silence and the next sentence start).
    """

    sentence_start: str = field(
        default="capital",
        metadata={
            "help": "Words that may begin a sentence. capital: words whose first letter is a capital. all_capitals: "
            "only words all in capitals, such as A, as in the reference, which gives far fewer clips."
        },
    )

    name: ClassVar[str] = "sft_clips"
    by_starts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sentence_start not in SENTENCE_STARTS:
            raise ValueError(
                f"{self.name}: sentence_start is {self.sentence_start!r}: expected {' or '.join(SENTENCE_STARTS)}"
            )

    def _sentence_starts(self, words: Words) -> np.ndarray:
        return sentence_starts(words, ALL_CAPITALS if self.sentence_start == "all_capitals" else CAPITAL_FIRST)


class _JoinedText:
    """All words of a batch in one buffer, separated by spaces, so that consecutive words are a slice of it."""

    def __init__(self, text: pa.StringArray):
        n_words = len(text)
        self._begins = np.zeros(n_words + 1, np.int64)
        np.cumsum(pc.binary_length(text).to_numpy(zero_copy_only=False) + 1, out=self._begins[1:])
        joined = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, n_words], pa.int32()), text), " ")
        self._bytes = memoryview(joined[0].as_buffer())

    def slices(self, first: np.ndarray, stop: np.ndarray) -> pa.Array | pa.ChunkedArray:
        """Return for each `i` the words `first[i]` to `stop[i] - 1` as one string."""
        begins, ends = self._begins[first], np.maximum(self._begins[stop] - 1, self._begins[first])
        pairs = zip(begins.tolist(), ends.tolist(), strict=True)
        return pa.array([bytes(self._bytes[begin:end]) for begin, end in pairs], pa.string())


def _begins_s(words: Words, first: np.ndarray) -> np.ndarray:
    """Return the start of each piece; a word may be timed before the video begins, a clip may not."""
    return np.maximum(words.start_s[first], 0.0)


def _nest_words(words: Words, first: np.ndarray, stop: np.ndarray) -> pa.ListArray:
    """Return a list array with the words of each clip."""
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
    """Return the id of each piece: the video's id, "#", and the piece's number in the video."""
    numbers = np.arange(len(rows)) - np.searchsorted(rows, rows)
    ids = batch["id"].take(pa.array(rows))
    return pc.binary_join_element_wise(ids, pc.cast(pa.array(numbers), pa.string()), "#")


def _ratio(counts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return counts per second: infinite for 0 seconds, or NaN if the count is 0 too."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return counts / seconds
