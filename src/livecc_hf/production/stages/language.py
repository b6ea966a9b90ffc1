"""The stage `language`: keeps videos or clips whose words are in the wanted language."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from ...captions.languages import is_same_language, language_code
from ...utils.counts import check_counts
from ...utils.extras import require_extra
from ..columns import scores_array, spoken_texts, with_column
from .base import StageResult, split
from .model import ModelStage

# Long enough for a reliable score by CLD3, and short enough that most pieces are in one language.
_PIECE_CHARS = 256
_LETTER = re.compile(r"[^\W\d_]")
# The codes that CLD3 returns (`kLanguageNames` of version 3.0.13).
_CODES = """
af am ar az be bg bg-Latn bn bs ca ceb co cs cy da de el el-Latn en eo es et eu fa fi fil fr fy ga gd gl gu ha haw
hi hi-Latn hmn hr ht hu hy id ig is it iw ja ja-Latn jv ka kk km kn ko ku ky la lb lo lt lv mg mi mk ml mn mr ms mt
my ne nl no ny pa pl ps pt ro ru ru-Latn sd si sk sl sm sn so sq sr st su sv sw ta te tg th tr uk ur uz vi xh yi yo
zh zh-Latn zu
"""
LANGUAGES = frozenset(_CODES.split())


@dataclass(frozen=True)
class Language(ModelStage):
    """Keeps videos or clips whose words are in a language, and fills `language_score`.

    The score is CLD3's probability of the language, averaged over pieces of the text, so that a text that is half in
    another language scores about 0.5. CLD3 is a small neural network that is part of its package: nothing is
    downloaded.

    Dropped: `other_language` (value: the score; detail: the language of most pieces), `no_words`.

    The default, English with a score of at least 0.9, is the LiveCC paper's (arXiv 2504.16030).
    """

    name: ClassVar[str] = "language"

    language: str = field(default="en", metadata={"help": "ISO 639 code of the wanted language. (paper: en)"})
    min_score: float = field(
        default=0.9, metadata={"help": "Lowest probability that the words are in the language, 0 to 1. (paper: 0.9)"}
    )
    max_pieces: int = field(
        default=8,
        metadata={"help": f"Score at most this many pieces of {_PIECE_CHARS} characters, spread evenly over the text."},
    )

    def __post_init__(self):
        if self._code is None:
            raise ValueError(
                f"language is {self.language!r}: expected the code of a language that CLD3 knows, one of "
                f"{', '.join(sorted(LANGUAGES))}"
            )
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score is {self.min_score}: expected a probability from 0 to 1, such as 0.9")
        check_counts(self, "max_pieces")

    @property
    def _code(self) -> str | None:
        """CLD3's code of the language; `None` if CLD3 does not know it."""
        return _cld3_code(self.language)

    def load(self) -> Any:
        """Return CLD3's identifier.

        Raises:
            ImportError: if the package is not installed.
        """
        require_extra("data", "language identification", "gcld3")
        import gcld3

        return gcld3.NNetLanguageIdentifier(0, 4 * 2 * _PIECE_CHARS)  # bytes: a character has 4 at most

    def __call__(self, batch: pa.Table) -> StageResult:
        """Score a batch in `VIDEO_SCHEMA` or `CLIP_SCHEMA`."""
        found = [self.score(text) for text in spoken_texts(batch)]
        scores = np.array([score for score, _ in found], np.float64)
        reasons = np.full(len(batch), None, dtype=object)
        reasons[scores < self.min_score] = "other_language"
        reasons[np.isnan(scores)] = "no_words"
        if "language_score" in batch.column_names:
            batch = with_column(batch, "language_score", scores_array(scores))
        values = scores.astype(object)
        values[np.isnan(scores)] = None
        return split(self.name, batch, reasons, values, [language for _, language in found])

    def score(self, text: str) -> tuple[float, str | None]:
        """Return the probability that a text is in the language, and the code of the language of most of its pieces.

        A text without letters gives NaN and `None`.
        """
        if not _LETTER.search(text):
            return np.nan, None
        find = self.loaded.FindLanguage
        results = [find(piece) for piece in _pieces(text, self.max_pieces)]
        score = sum(result.probability for result in results if result.language == self._code) / len(results)
        return score, Counter(result.language for result in results).most_common(1)[0][0]


@lru_cache(maxsize=64)
def _cld3_code(language: str) -> str | None:
    if language in LANGUAGES:  # such as ru-Latn: the script counts
        return language
    if language_code(language) == "nn":  # CLD3 has one code for both forms of Norwegian
        return "no"
    return next((code for code in sorted(LANGUAGES) if "-" not in code and is_same_language(code, language)), None)


def _pieces(text: str, most: int) -> list[str]:
    """Return pieces of a text of about equal length: the whole text, or at most `most` pieces spread evenly over it."""
    if len(text) < 2 * _PIECE_CHARS:
        n_pieces = max(1, round(len(text) / _PIECE_CHARS))
        starts = [len(text) * i // n_pieces for i in range(n_pieces + 1)]
        return [text[a:b] for a, b in itertools.pairwise(starts)]
    n_pieces = min(most, len(text) // _PIECE_CHARS)
    last = len(text) - _PIECE_CHARS
    starts = [last * i // max(n_pieces - 1, 1) for i in range(n_pieces)]
    return [text[start : start + _PIECE_CHARS] for start in starts]
