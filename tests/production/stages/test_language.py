"""CLD3 runs for real, on words without punctuation as captions have them."""

import pickle

import pyarrow as pa
import pytest

from livecc_hf.production.schemas import CLIP_SCHEMA, VIDEO_SCHEMA, words_array
from livecc_hf.production.stages.language import LANGUAGES, Language, _pieces

pytest.importorskip("gcld3")

ENGLISH = (
    "and here we go again the bowler is charging in they are in a precarious position at seventy eight for eight the "
    "field is set aggressively with multiple slips and a gully in place now the opponent has limited options for "
    "escape this is a textbook example of how to maintain control"
)
GERMAN = (
    "und hier sind wir wieder der rote ball rollt nach links und der spieler schießt aufs tor bevor der torwart "
    "reagieren kann das ist wirklich unglaublich und das publikum ist ganz aus dem häuschen"
)
DUTCH = "de speler schiet de bal in het doel voordat de keeper kan reageren en het publiek gaat helemaal uit zijn dak"
KOREAN = "선수가 골키퍼가 반응하기 전에 골을 넣고 관중은 열광합니다"


def table(texts, schema=CLIP_SCHEMA) -> pa.Table:
    words = [None if text is None else [(i, i + 1, word) for i, word in enumerate(text.split())] for text in texts]
    columns = {"id": [f"c{i}" for i in range(len(texts))], "words": words_array(words)}
    return pa.table({name: columns.get(name, pa.nulls(len(texts))) for name in schema.names}).cast(schema)


def test_english_is_kept_and_scored():
    texts = [ENGLISH, GERMAN, ENGLISH[:60], KOREAN, DUTCH, f"{ENGLISH} {GERMAN}", None, "12 34", ENGLISH.upper()]
    result = Language()(table(texts))
    assert result.kept.schema == CLIP_SCHEMA
    assert result.kept["id"].to_pylist() == ["c0", "c2", "c8"]
    assert all(0.9 <= score <= 1 for score in result.kept["language_score"].to_pylist())
    dropped = result.dropped.to_pylist()
    assert [row["reason"] for row in dropped] == [*["other_language"] * 4, "no_words", "no_words"]
    assert [row["detail"] for row in dropped[:3]] == ["de", "ko", "nl"]
    assert 0.3 < dropped[3]["value"] < 0.8  # about half of it is English
    assert dropped[0]["value"] < 0.1 and dropped[4]["value"] is None


def test_other_languages_thresholds_and_videos():
    batch = table([ENGLISH, GERMAN], VIDEO_SCHEMA)
    result = Language(language="de")(batch)
    assert result.kept["id"].to_pylist() == ["c1"] and result.kept.schema == VIDEO_SCHEMA
    assert len(Language(min_score=0)(batch).kept) == 2
    assert len(Language()(batch.slice(0, 0)).kept) == 0
    again = pickle.loads(pickle.dumps(Language()))  # as it travels to another process
    assert again(batch).kept["id"].to_pylist() == ["c0"]


HEBREW = "השחקן בועט את הכדור לשער לפני שהשוער מספיק להגיב והקהל משתגע מרוב שמחה בסוף המשחק הגדול הזה"
NORWEGIAN = (
    "og her er vi tilbake igjen ballen ruller mot venstre og spilleren skyter på mål før keeperen rekker å reagere det "
    "er helt utrolig og publikum er fullstendig ville av glede nå som kampen nesten er over"
)
TAGALOG = (
    "ang manlalaro ay sumipa ng bola papunta sa goal bago pa makakilos ang bantay at ang mga tao ay nagsigawan sa tuwa "
    "dahil malapit nang matapos ang laro ngayong gabi"
)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        *(("he", HEBREW), ("iw", HEBREW), ("heb", HEBREW), ("he-IL", HEBREW)),
        *(("nb", NORWEGIAN), ("nn", NORWEGIAN), ("no", NORWEGIAN)),
        *(("tl", TAGALOG), ("fil_PH", TAGALOG)),
    ],
)
def test_a_language_may_have_several_codes(code, text):
    batch = table([ENGLISH, text])
    assert Language(language=code)(batch).kept["id"].to_pylist() == ["c1"]


def test_what_the_model_answers_is_among_the_known_codes():
    texts = [ENGLISH, GERMAN, DUTCH, KOREAN, HEBREW, NORWEGIAN, TAGALOG]
    answers = [Language().score(text)[1] for text in texts]
    assert answers == ["en", "de", "nl", "ko", "iw", "no", "fil"] and set(answers) <= LANGUAGES


def test_long_texts_are_looked_at_in_pieces_from_end_to_end():
    text = "".join(chr(0x4E00 + i) for i in range(10_000))
    pieces = _pieces(text, 8)
    assert len(pieces) == 8 and all(len(piece) == 256 for piece in pieces)
    assert pieces[0] == text[:256] and pieces[-1] == text[-256:]
    for length in (1, 100, 256, 400, 511):
        assert "".join(_pieces(text[:length], 8)) == text[:length]
    assert Language(max_pieces=1).score(f"{ENGLISH} " * 20)[0] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "xx"}, "language is 'xx': expected the code of a language that CLD3 knows"),
        ({"language": "english"}, "language is 'english'"),
        ({"min_score": 90}, "min_score is 90"),
        ({"max_pieces": 0}, "max_pieces is 0"),
    ],
)
def test_thresholds_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Language(**options)
