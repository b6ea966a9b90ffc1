"""Rules that remove hallucinations: words that Whisper writes although nobody said them.

Whisper was trained on subtitles from the web. In silence and noise it writes phrases that are common there, and
sometimes it loops. openai-whisper (`transcribe.py`) detects this by the compression ratio of the text, the model's
probabilities and words with odd durations, and transcribes again. faster-whisper does the same only when it transcribes
segments in sequence: in batches it accepts the same thresholds but ignores them. The rules here work on the result of a
batch and drop words instead of transcribing again, since training data may lack words but should not hold invented
ones. There is no list of known phrases, since people also say each of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ....utils.text import counted

# Constants of Whisper's `word_anomaly_score`, for improbable, short and long words, and of its score for a phrase,
# which is judged by its first words.
_IMPROBABLE, _SHORT_S, _LONG_S, _SHORT_WEIGHT = 0.15, 0.133, 2.0, 15.0
_JUDGED_WORDS, _ODD_SCORE = 8, 3.0
# Half a step of Whisper's alignment: a shorter word is aligned to no sound at all.
_INSTANT_S = 0.01
# The compression ratio finds longer loops.
_LONGEST_LOOP_WORDS = 30
_EXAMPLE_WORDS = 12


class HeardWord(NamedTuple):
    """A recognised word.

    Attributes:
        start_s, end_s: seconds from the start of the sound.
        text: stripped.
        probability: mean over its tokens.
    """

    start_s: float
    end_s: float
    text: str
    probability: float


class Stretch(NamedTuple):
    """The words recognised in one stretch of sound, at most 30 s long.

    Attributes:
        words: in the order spoken.
        compression_ratio: bytes of the text divided by bytes after zlib.
        avg_logprob: mean log probability of a token.
        no_speech_prob: probability of the token for "no speech".
    """

    words: list[HeardWord]
    compression_ratio: float
    avg_logprob: float
    no_speech_prob: float


class LostWords(NamedTuple):
    """The words of a video that a rule removed.

    Attributes:
        reason: that the rule gives.
        n_lost: number of removed words.
        of: number of all recognised words.
        value: the number compared with the limit, in the worst case.
        detail: text for the user: what is wrong with the words, and at which time of the player.
        text: the first removed words of the worst case.
    """

    reason: str
    n_lost: int
    of: int
    value: float
    detail: str
    text: str


@dataclass(frozen=True)
class HallucinationRules:
    """Limits beyond which words count as hallucinated; null switches a rule off.

    Names that end in `threshold` are those of openai-whisper and faster-whisper, and so are their defaults, except that
    `hallucination_silence_threshold` is off there (2 s is the margin that they use at the edges of a segment).
    """

    compression_ratio_threshold: float | None = field(
        default=2.4,
        metadata={"help": "Drop stretches whose text compresses by more, since it repeats itself. (Whisper: 2.4)"},
    )
    no_speech_threshold: float | None = field(
        default=0.6,
        metadata={
            "help": "Drop stretches with a higher probability of no speech, if their tokens are also below "
            "log_prob_threshold. (Whisper: 0.6)"
        },
    )
    log_prob_threshold: float | None = field(
        default=-1.0,
        metadata={"help": "no_speech_threshold applies below this mean log probability; null: to all. (Whisper: -1)"},
    )
    hallucination_silence_threshold: float | None = field(
        default=2.0,
        metadata={"help": "Drop improbable, very short or very long words between silences of this many seconds."},
    )
    max_past_end_s: float | None = field(
        default=0.0, metadata={"help": "Drop words that begin this many seconds or more after the end of the sound."}
    )
    max_repeats: int | None = field(
        default=4,
        metadata={"help": "Of words that occur more than this many times in a row, keep the first occurrence. (ours)"},
    )
    max_words_at_once: int | None = field(
        default=2, metadata={"help": "Drop words without duration if more than this many are in a row. (ours)"}
    )
    max_word_s: float | None = field(
        default=3.0,
        metadata={"help": "Drop words longer than this. (from 3 s on, Whisper's score makes a single word an anomaly)"},
    )

    def check(self) -> None:
        """Raise a ValueError if a limit is out of range."""
        expected = {
            "compression_ratio_threshold": ("a ratio above 1, such as 2.4", lambda value: value > 1),
            "no_speech_threshold": ("a probability from 0 to 1, such as 0.6", lambda value: 0 <= value <= 1),
            "log_prob_threshold": ("a log probability, such as -1", lambda value: value <= 0),
            "hallucination_silence_threshold": ("seconds above 0, such as 2", lambda value: value > 0),
            "max_past_end_s": ("seconds, 0 or more", lambda value: value >= 0),
            "max_repeats": ("at least 1", lambda value: value >= 1),
            "max_words_at_once": ("at least 1", lambda value: value >= 1),
            "max_word_s": ("seconds above 0, such as 3", lambda value: value > 0),
        }
        for name, (what, fits) in expected.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and fits(value)):
                raise ValueError(f"{name} is {value}: expected {what}, or null to switch the rule off")

    def apply(
        self, stretches: Sequence[Stretch], length_s: float, shown_s: Callable[[float], float] = float
    ) -> tuple[list[HeardWord], list[LostWords]]:
        """Return the words of a video that pass all rules, and the words that each rule removed.

        The rules apply in the order of `_RULES`, each to the words that the rules before it left.

        Args:
            stretches: in the order of the sound.
            length_s: length of the whole sound.
            shown_s: converts a time of the sound to the player's time, for `LostWords.detail`.
        """
        words = [word for stretch in stretches for word in stretch.words]
        stretch_of = np.repeat(np.arange(len(stretches)), [len(stretch.words) for stretch in stretches])
        heard = _Heard(words, stretch_of, stretches, shown_s)
        n_words, lost = len(words), []
        for reason, rule in _RULES.items():
            found = [item for item in rule(self, heard, length_s) if len(item.rows)]
            if found:
                lost.append(_lost_words(reason, found, heard, n_words))
                heard = heard.without(np.concatenate([item.rows for item in found]))
        return heard.words, lost


class _Found(NamedTuple):
    """Words to remove: their indices, the number that was compared, and a text for the user."""

    rows: np.ndarray
    value: float
    detail: str


class _Heard(NamedTuple):
    """The remaining words, and the index of the stretch that each is from."""

    words: list[HeardWord]
    stretch_of: np.ndarray
    stretches: Sequence[Stretch]
    shown_s: Callable[[float], float]

    def without(self, rows: np.ndarray) -> _Heard:
        left = np.setdiff1d(np.arange(len(self.words)), rows)
        return self._replace(words=[self.words[i] for i in left], stretch_of=self.stretch_of[left])

    def rows_of(self, stretch: int) -> np.ndarray:
        return np.flatnonzero(self.stretch_of == stretch)

    def keys(self) -> np.ndarray:
        """Return the words without case and punctuation, for comparison."""
        keys = ["".join(filter(str.isalnum, word.text.casefold())) for word in self.words]
        return np.array(keys, dtype=object)


def _repetitive(rules: HallucinationRules, heard: _Heard, length_s: float) -> Iterator[_Found]:
    limit = rules.compression_ratio_threshold
    for i, stretch in enumerate(heard.stretches):
        ratio = stretch.compression_ratio
        if limit is not None and ratio > limit:
            yield _Found(heard.rows_of(i), ratio, f"the text of the stretch compresses by a factor of {ratio:.1f}")


def _silent(rules: HallucinationRules, heard: _Heard, length_s: float) -> Iterator[_Found]:
    for i, stretch in enumerate(heard.stretches):
        is_silent = rules.no_speech_threshold is not None and stretch.no_speech_prob > rules.no_speech_threshold
        if is_silent and (rules.log_prob_threshold is None or stretch.avg_logprob < rules.log_prob_threshold):
            detail = f"no speech: {stretch.no_speech_prob:.0%}, mean log probability {stretch.avg_logprob:.1f}"
            yield _Found(heard.rows_of(i), stretch.no_speech_prob, detail)


def _past_end(rules: HallucinationRules, heard: _Heard, length_s: float) -> Iterator[_Found]:
    past_s = np.array([word.start_s for word in heard.words]) - length_s
    if rules.max_past_end_s is None:
        return
    rows = np.flatnonzero(past_s >= rules.max_past_end_s)
    if rows.size:
        yield _Found(rows, float(past_s.max()), f"the sound ends at {heard.shown_s(length_s):.1f} s")


def _looped(rules: HallucinationRules, heard: _Heard, length_s: float) -> Iterator[_Found]:
    if rules.max_repeats is None:
        return
    keys = heard.keys()
    is_taken = np.zeros(len(keys), bool)
    for n in range(1, min(_LONGEST_LOOP_WORDS, len(keys) // (rules.max_repeats + 1)) + 1):
        is_same = (keys[n:] == keys[:-n]) & ~is_taken[n:] & ~is_taken[:-n]
        for begin, end in _runs(is_same):
            if end - begin >= n * rules.max_repeats:
                rows = np.arange(begin + n, end + n)
                is_taken[rows] = True
                times = 1 + len(rows) / n
                yield _Found(rows, times, f"the same {n} word(s) {times:.0f} times in a row")


def _at_once(rules: HallucinationRules, heard: _Heard, length_s: float) -> Iterator[_Found]:
    if rules.max_words_at_once is None:
        return
    is_instant = np.array([word.end_s - word.start_s < _INSTANT_S for word in heard.words], bool)
    for begin, end in _runs(is_instant):
        if end - begin > rules.max_words_at_once:
            yield _Found(np.arange(begin, end), float(end - begin), f"{end - begin} words in a row without duration")


def _long(rules: HallucinationRules, heard: _Heard, length_s: float) -> Iterator[_Found]:
    for row, word in enumerate(heard.words):
        word_s = word.end_s - word.start_s
        if rules.max_word_s is not None and word_s > rules.max_word_s:
            yield _Found(np.array([row]), word_s, f"a word of {word_s:.1f} s")


def _improbable(rules: HallucinationRules, heard: _Heard, length_s: float) -> Iterator[_Found]:
    limit_s = rules.hallucination_silence_threshold
    if limit_s is None or not heard.words:
        return
    follows = [after.start_s - before.end_s <= limit_s for before, after in itertools.pairwise(heard.words)]
    edges = [0, *(np.flatnonzero(~np.array(follows, bool)) + 1), len(heard.words)]
    for begin, end in itertools.pairwise(edges):
        judged = [word for word in heard.words[begin:end] if any(map(str.isalnum, word.text))][:_JUDGED_WORDS]
        score = sum(map(_oddness, judged))
        # As in Whisper, including the 0.01 for rounding.
        if score >= _ODD_SCORE or score + 0.01 >= len(judged):
            detail = f"{end - begin} word(s) between silences, improbable or of odd durations (score {score:.1f})"
            yield _Found(np.arange(begin, end), score, detail)


# By reason. Rules for whole stretches come first, and the rule for phrases last, since the words removed before it
# decide where silences are.
_RULES: dict[str, Callable[[HallucinationRules, _Heard, float], Iterator[_Found]]] = {
    "repetitive": _repetitive,
    "silent_stretch": _silent,
    "words_past_end": _past_end,
    "looped_words": _looped,
    "words_at_once": _at_once,
    "long_word": _long,
    "improbable_words": _improbable,
}


def _oddness(word: HeardWord) -> float:
    """Return Whisper's anomaly score of a word; a single word with a score of 1 or more is an anomaly."""
    word_s = word.end_s - word.start_s
    score = float(word.probability < _IMPROBABLE)
    return score + max(_SHORT_S - word_s, 0.0) * _SHORT_WEIGHT + max(word_s - _LONG_S, 0.0)


def _runs(is_in: np.ndarray) -> list[tuple[int, int]]:
    """Return the begin and end of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_in.astype(bool), [False]]).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _lost_words(reason: str, found: list[_Found], heard: _Heard, n_words: int) -> LostWords:
    count = sum(len(item.rows) for item in found)
    worst = max(found, key=lambda item: item.value)
    first = heard.words[worst.rows[0]]
    places = f", the worst of {len(found)} places" if len(found) > 1 else ""
    detail = f"{count} of {counted(n_words, 'word')}; at {heard.shown_s(first.start_s):.1f} s{places}: {worst.detail}"
    text = " ".join(heard.words[row].text for row in worst.rows[:_EXAMPLE_WORDS])
    return LostWords(reason, count, n_words, float(worst.value), detail, text)
