"""Words cut into clips: the rules one word at a time against the stages, and the reference's recorded clips."""

import gzip
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_hf.modeling.grammar_livecc import FRAME_STEP_S, FRAMES_PER_SECOND, MAX_FRAMES
from livecc_hf.production.caption_words import lines_to_words
from livecc_hf.production.records import CLIP_SCHEMA, DROPPED_SCHEMA, VIDEO_SCHEMA, words_array
from livecc_hf.production.stages.clips import PretrainClips, SftClips
from livecc_hf.production.stages.conversations import LAST_FRAME_S, dataset_rows

RECORDED = Path(__file__).parents[1] / "data" / "reference_clips"


def read(name: str) -> list[dict]:
    with gzip.open(RECORDED / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def videos(words_of: dict[str, list | None], **columns) -> pa.Table:
    """A table of videos by their ids."""
    n_videos = len(words_of)
    ids = list(words_of)
    values = {"id": ids, "video": ids, "title": [f"Title of {name}" for name in ids]} | columns
    arrays = {item.name: pa.array(values.get(item.name, [None] * n_videos), item.type) for item in VIDEO_SCHEMA}
    return pa.table(arrays | {"words": words_array(list(words_of.values()))}, schema=VIDEO_SCHEMA)


def talk(n_words: int, start_s: float = 0.0, step_s: float = 0.5, text: str = "word") -> list[tuple]:
    """Words one after the other without silence."""
    return [(start_s + i * step_s, start_s + (i + 1) * step_s, f"{text}{i}") for i in range(n_words)]


@dataclass(frozen=True)
class Faults:
    """What the reference does wrong, each on its own."""

    loses_last_word: bool = False  # of a video
    counts_from_first_end: bool = False  # a clip's length leaves its first word out (pre-training)
    wants_all_capitals: bool = False  # a sentence starts with "A" or "UNLV", never with "The" (SFT)
    measures_max_to_start: bool = False  # the last word may end after the limit (SFT)
    leaves_no_frame: bool = False  # a clip may end at 240 s, where no frame is left to speak its last words at


REFERENCE = Faults(True, True, True, True, True)


@dataclass(frozen=True)
class Rules:
    """The rules for one video, a word at a time."""

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
        """First word, stop and reason (`None`: a clip) of each piece; a lost word is in no piece."""
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
        """The words of each clip, and those before it."""
        return [
            ([tuple(word) for word in words[a:b]], " ".join(word[2] for word in words[:a]))
            for a, b, reason in self.pieces(words)
            if reason is None
        ]


def words_of_lines(lines: list) -> list[list]:
    """Caption lines as words: LiveCC's rules for captions without word times."""
    words = []
    for start_s, end_s, text in lines:
        if "[" in text or "]" in text:
            continue
        tokens: list[str] = []
        for token in text.split():
            if not tokens or tokens[-1] != token:
                tokens.append(token)
        step_s = (end_s - start_s) / len(tokens)
        words += [
            [round(start_s + i * step_s, 1), round(start_s + (i + 1) * step_s, 1), token]
            for i, token in enumerate(tokens)
        ]
    return words


def inputs(kind: str) -> dict[str, list]:
    if kind == "pretrain":
        return {video["video"]: words_of_lines(video["subtitles"]) for video in read("captions")}
    return {video["video"]: video["content"] for video in read("asr_words")}


def recorded(kind: str) -> dict[str, list[tuple[list, str]]]:
    clips: dict[str, list] = {name: [] for name in inputs(kind)}
    for clip in read(f"{kind}_clips"):
        words = [tuple(word) for word in clip["content"]]
        clips[clip["video"]].append((words, clip["previous" if kind == "pretrain" else "preasr"]))
    return clips


def produced(kind: str) -> dict[str, list[tuple[list, str]]]:
    words_of = inputs(kind)
    stage = PretrainClips() if kind == "pretrain" else SftClips()
    clips: dict[str, list] = {name: [] for name in words_of}
    for clip in stage(videos(words_of)).kept.to_pylist():
        words = [(word["start_s"], word["end_s"], word["word"]) for word in clip["words"]]
        clips[clip["video"]].append((words, clip["previous"]))
    return clips


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_the_rules_with_the_references_faults_are_the_recorded_clips(kind):
    rules = Rules(kind == "sft", REFERENCE)
    assert {name: rules.clips(words) for name, words in inputs(kind).items()} == recorded(kind)


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_the_stages_are_the_rules_without_faults(kind):
    rules = Rules(kind == "sft")
    assert produced(kind) == {name: rules.clips(words) for name, words in inputs(kind).items()}


def changed_by(kind: str, **faults: bool) -> list[str]:
    """Videos whose clips one fault changes."""
    right, wrong = Rules(kind == "sft"), Rules(kind == "sft", Faults(**faults))
    return [name for name, words in inputs(kind).items() if right.clips(words) != wrong.clips(words)]


def test_the_last_word_is_not_lost():
    """The reference leaves out a video's last word, though it belongs to the last clip."""
    recorded_clips, ours = recorded("pretrain"), produced("pretrain")
    changed = changed_by("pretrain", loses_last_word=True)
    assert changed == [name for name in changed if ours[name] != recorded_clips[name]]
    longer = [
        (theirs[-1][0], mine[-1][0])
        for theirs, mine in ((recorded_clips[name], ours[name]) for name in changed)
        if len(theirs) == len(mine)
    ]
    assert longer
    assert all(mine[:-1] == theirs for theirs, mine in longer)


def test_a_clips_length_counts_from_its_first_words_start():
    """The reference counts from the first word's end, and loses one clip of 30.2 s."""
    assert changed_by("pretrain", counts_from_first_end=True) == ["video_1_006.mp4"]
    assert recorded("pretrain")["video_1_006.mp4"] == []
    (words, previous) = produced("pretrain")["video_1_006.mp4"][0]
    assert (words[0][0], words[-1][1], previous) == (2.6, 32.8, "")


def test_pretraining_clips_differ_from_the_recorded_ones_by_nothing_else():
    ours, theirs = produced("pretrain"), recorded("pretrain")
    known = set(changed_by("pretrain", loses_last_word=True)) | {"video_1_006.mp4"}
    assert {name for name in ours if ours[name] != theirs[name]} == known
    assert sum(map(len, theirs.values())) == 68


def test_a_sentence_starts_at_any_capitalised_word():
    """The reference asks for a word all in capitals, and so starts at "A" and "UNLV" but never at "The"."""
    ours, theirs = produced("sft"), recorded("sft")
    first_words = {name: words[0][0] for name, words in inputs("sft").items()}
    began = [clip[0][0] for name in theirs for clip in theirs[name] if clip[0][0][0] != first_words[name]]
    assert sorted(word for _, _, word in began) == ["A", "A", "RPI", "UNLV"]
    assert sum(map(len, theirs.values())) == 6
    assert sum(map(len, ours.values())) == 33
    for name, clips in theirs.items():  # each lies in one of ours, which begins no later and ends no earlier
        for words, _ in clips:
            assert any(set(words) <= set(mine) and mine[0] <= words[0] for mine, _ in ours[name]), name


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_a_clip_leaves_room_for_the_frame_after_its_last_word(kind):
    """The reference's clips may last 240 s, whose last half second has no frame: its training cuts those words."""
    stage = PretrainClips() if kind == "pretrain" else SftClips()
    words = [("The" if i % 7 else "end.") for i in range(1000)]
    words = [(i * 0.4, (i + 1) * 0.4, word) for i, word in enumerate(words)]
    theirs = Rules(kind == "sft", Faults(leaves_no_frame=True)).clips(words)
    assert theirs[0][0][-1][1] - theirs[0][0][0][0] == pytest.approx(240)
    rows = dataset_rows(stage(videos({"a": words})).kept).to_pylist()
    assert rows and max(row["video_end"] - row["video_start"] for row in rows) <= MAX_FRAMES / FRAMES_PER_SECOND
    last_frame_s = (MAX_FRAMES - 1) / FRAMES_PER_SECOND
    assert all(row["words"][-1]["end"] - row["video_start"] <= last_frame_s for row in rows)
    assert changed_by(kind, leaves_no_frame=True) == []  # none of the recorded clips is that long


def test_the_room_is_the_grammars_step():
    assert LAST_FRAME_S == FRAME_STEP_S


def test_sft_clips_differ_from_the_recorded_ones_by_nothing_else():
    ours, theirs = produced("sft"), recorded("sft")
    known = set(changed_by("sft", loses_last_word=True)) | set(changed_by("sft", wants_all_capitals=True))
    assert {name for name in ours if ours[name] != theirs[name]} <= known
    assert changed_by("sft", measures_max_to_start=True) == []


MARKED = {("-", "Weighted"), ("-", "Standing")}  # how two lines of the recorded captions begin


def test_captions_give_the_same_clips_as_the_rules_for_lines():
    """From lines to clips; the reference takes the dash before a speaker's words for a word, in one video."""
    lines = {video["video"]: video["subtitles"] for video in read("captions")}
    words = dict(zip(lines, lines_to_words(list(lines.values())).to_pylist()))
    triples = {name: [tuple(word.values()) for word in spoken] for name, spoken in words.items()}
    by_rules = {name: [tuple(word) for word in spoken] for name, spoken in inputs("pretrain").items()}
    assert [name for name in lines if triples[name] != by_rules[name]] == ["video_1_020.mp4"]
    texts, by_rule = ([word[2] for word in given["video_1_020.mp4"]] for given in (triples, by_rules))
    dashes = [i for i, (word, after) in enumerate(pairwise(by_rule)) if (word, after) in MARKED]
    assert texts == [word for i, word in enumerate(by_rule) if i not in dashes] and len(dashes) == 2
    got = PretrainClips()(videos(triples)).kept.to_pylist()
    expected = {name: Rules(False).clips(spoken) for name, spoken in triples.items()}
    assert [len(clip["words"]) for clip in got] == [len(clip) for clips in expected.values() for clip, _ in clips]


def test_no_sft_clip_is_longer_than_the_limit():
    """The reference measures to the last word's start: its clips may last longer than 240 s."""
    words = [(i * 2.0, i * 2.0 + 1.5, "word") for i in range(121)]  # the last one from 240 to 241.5 s
    faults = Faults(measures_max_to_start=True, leaves_no_frame=True)
    assert len(Rules(True, faults).clips(words)[0][0]) == 121
    result = SftClips()(videos({"a": words}))
    assert result.kept["end_s"].to_pylist() == [239.5]
    assert result.dropped["reason"].to_pylist() == ["mid_sentence"]


def test_word_times_show_a_silence_that_an_even_split_hides():
    """The reference splits every caption line evenly, also where its words have times."""
    spoken = [*talk(70), (60.0, 60.5, "so"), *talk(70, 60.5)]
    lines = [(word[0], word[1], word[2]) for word in talk(70)] + [
        (35.0, 60.5, " ".join(f"w{i}" for i in range(25)) + " so")
    ]
    hidden = [*words_of_lines(lines), *talk(70, 60.5)]
    cut = PretrainClips()
    assert len(cut(videos({"a": spoken})).kept) == 2
    assert len(cut(videos({"a": hidden})).kept) == 1


def test_a_word_that_rolling_captions_repeat_is_a_word_like_any_other():
    """The clip stages drop no repeats: those of rolling captions are removed where captions are read."""
    words = talk(80)
    doubled = [*words[:40], (19.9, 20.0, "word39"), *words[40:]]
    texts = [word["word"] for word in PretrainClips()(videos({"a": doubled})).kept["words"][0].as_py()]
    assert texts == [word[2] for word in doubled]


def test_what_a_clip_holds():
    words = [*talk(10), *talk(80, 20.0, text="later"), *talk(150, 70.0, 0.4, text="last")]
    table = videos({"a/b.mp4": words}, category=["Sports"], duration_s=[200.0])
    result = PretrainClips()(table)
    assert result.kept.schema == CLIP_SCHEMA and result.dropped.schema == DROPPED_SCHEMA
    first, second = result.kept.to_pylist()
    assert (first["id"], second["id"]) == ("a/b.mp4#1", "a/b.mp4#2")
    assert (first["video"], first["title"], first["category"]) == ("a/b.mp4", "Title of a/b.mp4", "Sports")
    assert (first["start_s"], first["end_s"]) == (20.0, 60.0)
    assert first["previous"] == " ".join(word[2] for word in words[:10])
    assert second["previous"] == " ".join(word[2] for word in words[:90])
    assert first["words"][0] == {"start_s": 20.0, "end_s": 20.5, "word": "later0"}
    assert [first[name] for name in ("language_score", "text_loss", "p_talking_head", "query")] == [None] * 4
    (dropped,) = result.dropped.to_pylist()
    assert (dropped["id"], dropped["reason"], dropped["value"]) == ("a/b.mp4#0", "short", 5.0)
    assert (dropped["detail"], dropped["hours"]) == ("10 words", 5 / 3600)
    assert dropped["text"] == " ".join(word[2] for word in words[:10])


def test_previous_words_can_be_limited():
    words = [*talk(10), *talk(80, 20.0)]
    kept = PretrainClips(max_previous_words=3)(videos({"a": words})).kept
    assert kept["previous"].to_pylist() == ["word7 word8 word9"]
    assert PretrainClips(max_previous_words=0)(videos({"a": words})).kept["previous"].to_pylist() == [""]


def test_speed_and_length_are_compared_with_their_limits():
    cases = {"slow": talk(40, step_s=1.25), "fast": talk(200, step_s=0.2), "short": talk(20), "right": talk(60)}
    result = PretrainClips()(videos(cases))
    assert result.kept["video"].to_pylist() == ["right"]
    pieces = [(row["reason"], round(row["value"], 6)) for row in result.dropped.to_pylist() if row["value"]]
    assert pieces == [("too_slow", 0.8), ("too_fast", 5.0), ("short", 10.0)]
    wide = PretrainClips(min_s=10, min_words_per_s=0.5, max_words_per_s=6)
    assert len(wide(videos(cases)).kept) == 4


def test_a_long_talk_is_cut_at_the_limit():
    result = PretrainClips()(videos({"a": talk(1000)}))  # 500 s
    spans = list(zip(result.kept["start_s"].to_pylist(), result.kept["end_s"].to_pylist()))
    assert spans == [(0.0, 239.5), (239.5, 479.0)]
    assert result.dropped["reason"].to_pylist() == ["short"]


@pytest.mark.parametrize(("start_s", "max_s"), [(16.1, 240.0), (2.0, 9.7)])
def test_rounding_of_the_limit_does_not_move_a_word(start_s, max_s):
    """What is compared is the difference of times, as in the rules: a sum may round to the other side."""
    end_s = next(
        round(start_s + i / 10 + max_s, 1)
        for i in range(4000)
        if (round(start_s + i / 10 + max_s, 1) - round(start_s + i / 10, 1) <= max_s)
        != (round(start_s + i / 10 + max_s, 1) <= round(start_s + i / 10, 1) + max_s)
    )
    first_s = round(end_s - max_s, 1)
    n_words = round(max_s * 10)
    words = [(round(first_s + i / 10, 1), round(first_s + (i + 1) / 10, 1), "w") for i in range(n_words + 50)]
    words[n_words - 1] = (words[n_words - 1][0], end_s, "w")
    stage = PretrainClips(min_s=0, max_s=max_s, max_words_per_s=100)
    clips = [len(clip) for clip in stage(videos({"a": words})).kept["words"].to_pylist()]
    assert clips == [stop - first for first, stop, _ in Rules(False, min_s=0, max_s=max_s).pieces(words)]


def test_limits_themselves_are_kept():
    cases = {"slowest": talk(30, step_s=1.0), "fastest": talk(120, step_s=0.25), "gap": talk(64)}
    cases["gap"][32:] = [(start + 2.5, end + 2.5, word) for start, end, word in cases["gap"][32:]]  # ends 3 s apart
    assert PretrainClips()(videos(cases)).kept["video"].to_pylist() == list(cases)


def test_sentences_may_open_with_a_quotation_mark_or_a_number():
    words = [*talk(4), (2.0, 2.4, "end."), (2.5, 2.9, '"Now'), *talk(70, 3.0)]
    words = [(0.0, 0.1, "so"), *[(start + 10, end + 10, word) for start, end, word in words]]
    clip = SftClips()(videos({"a": words})).kept["words"][0].as_py()
    assert clip[0]["word"] == '"Now'


def test_videos_without_clips_and_broken_ones_are_told_apart():
    table = videos(
        {
            "null": None,
            "empty": [],
            "blank": [(0.0, 1.0, "  ")],
            "backwards": [(5.0, 1.0, "no"), (6.0, 7.0, "yes")],
            "infinite": [(0.0, float("inf"), "no")],
            "wordless": [(0.0, 1.0, None)],
            "good": talk(100),
        },
        duration_s=[360.0, None, 36.0, 36.0, 36.0, 36.0, 50.0],
    )
    result = PretrainClips()(table)
    assert result.kept["video"].to_pylist() == ["good"]
    rows = {row["id"]: row for row in result.dropped.to_pylist()}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "null": "no_clip",
        "empty": "no_clip",
        "blank": "no_clip",
        "backwards": "error",
        "infinite": "error",
        "wordless": "error",
    }
    assert rows["null"]["hours"] == 0.1 and rows["empty"]["hours"] == 0 and rows["null"]["detail"] == "0 words"
    assert "word 0 ('no') runs from 5.0 to 1.0 s" in rows["backwards"]["detail"]


def test_hours_of_a_dropped_video_are_counted_once():
    result = PretrainClips()(videos({"a": talk(20)}, duration_s=[100.0]))
    assert result.dropped["reason"].to_pylist() == ["short", "no_clip"]
    assert pc.sum(result.dropped["hours"]).as_py() == pytest.approx(100 / 3600)


def test_an_empty_batch_gives_empty_tables():
    for stage in (PretrainClips(), SftClips()):
        result = stage(VIDEO_SCHEMA.empty_table())
        assert (len(result.kept), len(result.dropped)) == (0, 0)
        assert result.kept.schema == CLIP_SCHEMA and result.dropped.schema == DROPPED_SCHEMA


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="min_s=30.0, max_s=20"):
        PretrainClips(max_s=20)
    with pytest.raises(ValueError, match="min_words_per_s=5"):
        PretrainClips(min_words_per_s=5)
    with pytest.raises(ValueError, match="max_previous_words=-1"):
        SftClips(max_previous_words=-1)


TEXTS = st.sampled_from(["the", "The", "end.", "End?", "A", "so", "42", '"Oh', "", " two ", "wow!", "é", "Ärger"])
STEPS = st.one_of(st.floats(0.05, 1.5), st.floats(2.5, 8.0), st.just(3.0), st.floats(-1.0, 0.0))


@st.composite
def spoken_words(draw):
    """Words with silences and overlaps, some not in order, some blank, some long."""
    items = draw(st.lists(st.tuples(STEPS, st.sampled_from([0.0, 0.1, 0.4, 2.0, 30.0]), TEXTS), max_size=60))
    words, at = [], 1.0
    for step_s, length_s, text in items:
        at = max(round(at + step_s, 2), 0.0)
        words.append((at, round(at + length_s, 2), text))
    return words


SMALL = {"min_s": 2.0, "max_s": 10.0}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.none(), spoken_words()), max_size=5), st.booleans())
def test_stages_cut_any_words_as_the_rules_do(words_of, is_sft):
    stage = SftClips(**SMALL) if is_sft else PretrainClips(**SMALL)
    table = videos({f"v{i}": words for i, words in enumerate(words_of)})
    result = stage(table)
    clips, pieces = result.kept.to_pylist(), result.dropped.to_pylist()
    for row, words in enumerate(words_of):
        used = sorted(((a, b, text.strip()) for a, b, text in words or [] if text.strip()), key=lambda word: word[1])
        expected = Rules(is_sft, **SMALL).pieces(used)
        got = {clip["id"]: (clip, None) for clip in clips if clip["video"] == f"v{row}"}
        got |= {piece["id"]: (piece, piece["reason"]) for piece in pieces if piece["id"].startswith(f"v{row}#")}
        assert sorted(got, key=lambda name: int(name.split("#")[1])) == [f"v{row}#{i}" for i in range(len(expected))]
        for number, (first, stop, reason) in enumerate(expected):  # every word in one piece, in order
            item, got_reason = got[f"v{row}#{number}"]
            assert got_reason == reason
            if reason is None:
                found = [(word["start_s"], word["end_s"], word["word"]) for word in item["words"]]
                assert found == used[first:stop]
                assert item["previous"] == " ".join(word[2] for word in used[:first])
                assert item["end_s"] - item["start_s"] <= SMALL["max_s"]
                assert item["end_s"] - item["start_s"] >= SMALL["min_s"]
            else:
                assert item["detail"] == f"{stop - first} words"
        without = [piece["reason"] for piece in pieces if piece["id"] == f"v{row}"]
        assert without == ([] if any(reason is None for _, _, reason in expected) else ["no_clip"])


@settings(max_examples=60, deadline=None)
@given(st.lists(spoken_words(), min_size=1, max_size=6), st.data(), st.booleans())
def test_the_split_into_batches_does_not_matter(words_of, data, is_sft):
    stage = SftClips(**SMALL) if is_sft else PretrainClips(**SMALL)
    table = videos({f"v{i}": words for i, words in enumerate(words_of)})
    whole = stage(table)
    at = data.draw(st.integers(0, len(words_of)))
    parts = [stage(table.slice(0, at)), stage(table.slice(at))]
    assert pa.concat_tables([part.kept for part in parts]).equals(whole.kept)
    assert pa.concat_tables([part.dropped for part in parts]).equals(whole.dropped)
    chunked = pa.concat_tables([table.slice(i, 1) for i in range(len(table))])
    assert stage(chunked).kept.equals(whole.kept)
