"""The rules for cutting words into clips, word by word, with the faults of the reference as options."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from livecc_hf.modeling.grammar import FRAME_STEP_S
from livecc_hf.production.schemas import VIDEO_SCHEMA, words_array


def videos(words_of: dict[str, list | None], **columns) -> pa.Table:
    """Return a table of videos from their words by id."""
    n_videos = len(words_of)
    ids = list(words_of)
    values = {"id": ids, "video": ids, "title": [f"Title of {name}" for name in ids]} | columns
    arrays = {item.name: pa.array(values.get(item.name, [None] * n_videos), item.type) for item in VIDEO_SCHEMA}
    return pa.table(arrays | {"words": words_array(list(words_of.values()))}, schema=VIDEO_SCHEMA)


def talk(n_words: int, start_s: float = 0.0, step_s: float = 0.5, text: str = "word") -> list[tuple]:
    """Return consecutive words without silence."""
    return [(start_s + i * step_s, start_s + (i + 1) * step_s, f"{text}{i}") for i in range(n_words)]


@dataclass(frozen=True)
class Faults:
    """The faults of the reference, each as an option."""

    loses_last_word: bool = False  # of a video
    counts_from_first_end: bool = False  # a clip's length leaves its first word out (pre-training)
    wants_all_capitals: bool = False  # a sentence starts with "A" or "UNLV", never with "The" (SFT)
    measures_max_to_start: bool = False  # the last word may end after the limit (SFT)
    leaves_no_frame: bool = False  # a clip may end at 240 s, where no frame is left to speak its last words at


REFERENCE = Faults(True, True, True, True, True)


@dataclass(frozen=True)
class Rules:
    """The rules for one video, word by word."""

    is_sft: bool
    faults: Faults = Faults()
    min_s: float = 30.0
    max_s: float = 240.0
    max_gap_s: float = 3.0

    @property
    def max_spoken_s(self) -> float:
        return self.max_s - (0.0 if self.faults.leaves_no_frame else FRAME_STEP_S)

    def starts_sentence(self, words: list, at: int) -> bool:
        if at == 0 or not self.is_sft:
            return True
        word, before = words[at][2], words[at - 1][2]
        letters = [letter for letter in word if letter.isalpha()]
        is_capital = word.isupper() if self.faults.wants_all_capitals else bool(letters) and letters[0].isupper()
        return is_capital and before[-1] in ".?!"

    def pieces(self, words: list) -> list[tuple[int, int, str | None]]:
        """Return first word, stop and reason (`None`: a clip) of each piece; a lost word is in no piece."""
        pieces, first, is_clip = [], 0, True
        time = 0 if self.is_sft else 1  # of a word
        from_time = 1 if self.faults.counts_from_first_end and not self.is_sft else 0
        to_time = 0 if self.faults.measures_max_to_start and self.is_sft else 1
        n_words = len(words)
        for at in range(n_words + 1):
            if at == n_words:
                cut = True
            elif at == first:
                is_clip, cut = self.starts_sentence(words, at), False
            else:
                cut = words[at][time] - words[at - 1][time] > self.max_gap_s
                is_long = words[at][to_time] - words[first][from_time] > self.max_spoken_s
                cut |= is_long if is_clip else self.starts_sentence(words, at)
            if cut and at > first:
                stop = at - (at == n_words and self.faults.loses_last_word)
                pieces.append((first, stop, is_clip))
                first = at
                if at < n_words:
                    is_clip = self.starts_sentence(words, at)
        return [(a, b, self.reason(words[a:b], is_clip, time, from_time)) for a, b, is_clip in pieces if b > a]

    def reason(self, piece: list, is_clip: bool, time: int, from_time: int) -> str | None:
        seconds = piece[-1][1] - piece[0][0]
        if not is_clip:
            return "mid_sentence"
        if seconds > self.max_spoken_s and not self.faults.measures_max_to_start:
            return "long"
        if piece[-1][time] - piece[0][from_time] < self.min_s:
            return "short"
        if not self.is_sft:
            speed = len(piece) / seconds if seconds else float("inf")
            return "too_slow" if speed < 1 else "too_fast" if speed > 4 else None
        return None

    def clips(self, words: list) -> list[tuple[list, str]]:
        """Return the words of each clip, and the words before it."""
        return [
            ([tuple(word) for word in words[a:b]], " ".join(word[2] for word in words[:a]))
            for a, b, reason in self.pieces(words)
            if reason is None
        ]
