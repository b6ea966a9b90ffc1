"""Words that Whisper writes though nobody said them: rules that find them, and what each of them took away.

Whisper was trained on subtitles from the web. In silence and noise it writes what often stands there, and now and then
it loops. Its own program (openai-whisper, `transcribe.py`) tells this by how well the text compresses, by the model's
probabilities and by words whose times are odd, and transcribes again. faster-whisper does so one stretch after the
other, but not in batches, where the same limits are taken and not used. So the rules stand here, over what a batch
gives, and drop words in place of guessing again: training data may lack words, but should not hold invented ones. No
list of phrases is among them, since every phrase of such a list is also said for real.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

# Of Whisper's own score of how odd a word is (`word_anomaly_score`): improbable, short, long. A phrase is judged by its
# first words.
_IMPROBABLE, _SHORT_S, _LONG_S, _SHORT_WEIGHT = 0.15, 0.133, 2.0, 15.0
_JUDGED_WORDS, _ODD_SCORE = 8, 3.0
# Half a step of Whisper's alignment: a word that lasts less got no sound of its own.
_INSTANT_S = 0.01
# Loops of more words are found by how well they compress.
_LONGEST_LOOP_WORDS = 30
_EXAMPLE_WORDS = 12


class HeardWord(NamedTuple):
    """A word of the recogniser.

    Attributes:
        start_s, end_s: seconds from the start of the sound.
        text: without blanks around it.
        probability: mean of its tokens'.
    """

    start_s: float
    end_s: float
    text: str
    probability: float


class Stretch(NamedTuple):
    """What was recognised in one stretch of sound, of 30 s at most.

    Attributes:
        words: in the order spoken.
        compression_ratio: bytes of the text, by those that zlib makes of it.
        avg_logprob: mean log probability of a token.
        no_speech_prob: probability of the token for "no speech".
    """

    words: list[HeardWord]
    compression_ratio: float
    avg_logprob: float
    no_speech_prob: float


class LostWords(NamedTuple):
    """Words of a video that a rule took away.

    Attributes:
        reason: of the rule.
        n_lost, of: how many words, of how many that were recognised.
        value: the number compared with the limit, where it was worst.
        detail: for a person: what is wrong, and when.
        text: the first of these words.
    """

    reason: str
    n_lost: int
    of: int
    value: float
    detail: str
    text: str


@dataclass(frozen=True)
class HallucinationRules:
    """Limits beyond which words count as nobody's; null switches a rule off.

    The names ending in `threshold` are those of openai-whisper and faster-whisper, with their defaults, but for the
    silence: there that rule is off, and 2 s is what it takes for the margins of a stretch.
    """

    compression_ratio_threshold: float | None = field(
        default=2.4,
        metadata={"help": "Text of a stretch that compresses better repeats itself: dropped. (Whisper: 2.4)"},
    )
    no_speech_threshold: float | None = field(
        default=0.6,
        metadata={
            "help": "Stretches whose probability of no speech is higher, with log_prob_threshold, are dropped. "
            "(Whisper: 0.6)"
        },
    )
    log_prob_threshold: float | None = field(
        default=-1.0,
        metadata={"help": "Mean log probability below which no_speech_threshold holds; null: always. (Whisper: -1)"},
    )
    hallucination_silence_threshold: float | None = field(
        default=2.0,
        metadata={
            "help": "Improbable, very short or long words alone between silences of so many seconds are dropped."
        },
    )
    max_past_end_s: float | None = field(
        default=0.0, metadata={"help": "Words that begin so long after the end of the sound, or longer, are dropped."}
    )
    max_repeats: int | None = field(
        default=4, metadata={"help": "Of the same words more often in a row, the first time alone is kept. (ours)"}
    )
    max_words_at_once: int | None = field(
        default=2, metadata={"help": "Of words without length, so many in a row may be; more are dropped. (ours)"}
    )
    max_word_s: float | None = field(
        default=3.0,
        metadata={"help": "Longest time of a word. (from 3 s on, Whisper's score calls a single word an anomaly)"},
    )

    def check(self) -> None:
        """Raise a ValueError if a limit makes no sense."""
        expected = {
            "compression_ratio_threshold": ("a ratio above 1, such as 2.4", lambda value: value > 1),
            "no_speech_threshold": ("a probability from 0 to 1, such as 0.6", lambda value: 0 <= value <= 1),
            "log_prob_threshold": ("a logarithm of a probability, such as -1", lambda value: value <= 0),
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

    def apply(self, stretches: Sequence[Stretch], length_s: float) -> tuple[list[HeardWord], list[LostWords]]:
        """Return the words of a video that pass, and what each rule took away.

        The rules apply in the order of their names in `_RULES`, each on what those before it left.

        Args:
            stretches: in the order heard.
            length_s: of the whole sound.
        """
        words = [word for stretch in stretches for word in stretch.words]
        heard = _Heard(words, np.repeat(np.arange(len(stretches)), [len(s.words) for s in stretches]), stretches)
        n_words, lost = len(words), []
        for reason, rule in _RULES.items():
            found = [item for item in rule(self, heard, length_s) if len(item.rows)]
            if found:
                lost.append(_told(reason, found, heard.words, n_words))
                heard = heard.without(np.concatenate([item.rows for item in found]))
        return heard.words, lost


class _Found(NamedTuple):
    """Words to take away: which, the number that was compared, and what it says to a person."""

    rows: np.ndarray
    value: float
    detail: str


class _Heard(NamedTuple):
    """The words that are left, and of which stretch each is."""

    words: list[HeardWord]
    stretch_of: np.ndarray
    stretches: Sequence[Stretch]

    def without(self, rows: np.ndarray) -> _Heard:
        left = np.setdiff1d(np.arange(len(self.words)), rows)
        return self._replace(words=[self.words[i] for i in left], stretch_of=self.stretch_of[left])

    def rows_of(self, stretch: int) -> np.ndarray:
        return np.flatnonzero(self.stretch_of == stretch)

    def keys(self) -> np.ndarray:
        """Return each word as it is compared: without case and punctuation."""
        keys = ["".join(filter(str.isalnum, word.text.casefold())) for word in self.words]
        return np.array(keys, dtype=object)


def _repetitive(rules: HallucinationRules, heard: _Heard, length_s: float) -> Iterator[_Found]:
    limit = rules.compression_ratio_threshold
    for i, stretch in enumerate(heard.stretches):
        ratio = stretch.compression_ratio
        if limit is not None and ratio > limit:
            yield _Found(heard.rows_of(i), ratio, f"the stretch's text compresses {ratio:.1f} times")


def _silent(rules: HallucinationRules, heard: _Heard, length_s: float) -> Iterator[_Found]:
    for i, stretch in enumerate(heard.stretches):
        is_silent = rules.no_speech_threshold is not None and stretch.no_speech_prob > rules.no_speech_threshold
        if is_silent and (rules.log_prob_threshold is None or stretch.avg_logprob < rules.log_prob_threshold):
            detail = f"no speech with {stretch.no_speech_prob:.0%}, tokens' log probability {stretch.avg_logprob:.1f}"
            yield _Found(heard.rows_of(i), stretch.no_speech_prob, detail)


def _past_end(rules: HallucinationRules, heard: _Heard, length_s: float) -> Iterator[_Found]:
    past_s = np.array([word.start_s for word in heard.words]) - length_s
    if rules.max_past_end_s is None:
        return
    rows = np.flatnonzero(past_s >= rules.max_past_end_s)
    if rows.size:
        yield _Found(rows, float(past_s.max()), f"the sound ends at {length_s:.1f} s")


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
            yield _Found(np.arange(begin, end), float(end - begin), f"{end - begin} words in a row without length")


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
        # As in Whisper, with its slack for rounding.
        if score >= _ODD_SCORE or score + 0.01 >= len(judged):
            detail = f"{end - begin} word(s) alone between silences, improbable or of odd lengths (score {score:.1f})"
            yield _Found(np.arange(begin, end), score, detail)


# By reason, in the order applied: whole stretches first, and phrases last, since what is left decides on silences.
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
    """Return Whisper's score of how odd a word is; from 1 on it is odd alone."""
    word_s = word.end_s - word.start_s
    score = float(word.probability < _IMPROBABLE)
    return score + max(_SHORT_S - word_s, 0.0) * _SHORT_WEIGHT + max(word_s - _LONG_S, 0.0)


def _runs(is_in: np.ndarray) -> list[tuple[int, int]]:
    """Return begin and end of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_in.astype(bool), [False]]).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _told(reason: str, found: list[_Found], words: list[HeardWord], n_words: int) -> LostWords:
    count = sum(len(item.rows) for item in found)
    worst = max(found, key=lambda item: item.value)
    first = words[worst.rows[0]]
    places = f", the worst of {len(found)} places" if len(found) > 1 else ""
    detail = f"{count} of {n_words} words; at {first.start_s:.1f} s{places}: {worst.detail}"
    text = " ".join(words[row].text for row in worst.rows[:_EXAMPLE_WORDS])
    return LostWords(reason, count, n_words, float(worst.value), detail, text)
