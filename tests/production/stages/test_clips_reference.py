"""The clip stages give the recorded clips of the reference, except for the faults of the reference."""

import gzip
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from caption_samples import lines_to_words
from clip_rules import REFERENCE, Faults, Rules, talk, videos

from livecc_hf.modeling.grammar import FRAMES_PER_SECOND, MAX_FRAMES
from livecc_hf.production.outputs.published_formats import dataset_rows
from livecc_hf.production.stages.clips import PretrainClips, SftClips

RECORDED = Path(__file__).parents[2] / "data" / "reference_clips"


def read(name: str) -> list[dict]:
    with gzip.open(RECORDED / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def words_of_lines(lines: list) -> list[list]:
    """Split caption lines into words by LiveCC's rules for captions without word times."""
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
    """Return the videos whose clips a fault changes."""
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


def test_the_references_sentence_starts_are_an_option():
    """With these options, each clip is one of the recorded clips, except for the last word of a video."""
    stage, theirs = SftClips(sentence_start="all_capitals"), recorded("sft")
    kept = stage(videos(inputs("sft"))).kept.to_pylist()
    assert len(kept) == 6
    for clip in kept:
        words = [(word["start_s"], word["end_s"], word["word"]) for word in clip["words"]]
        assert any(words[: len(mine)] == mine and len(words) - len(mine) <= 1 for mine, _ in theirs[clip["video"]])


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_a_clip_leaves_room_for_the_frame_after_its_last_word(kind):
    """The reference's clips may last 240 s, but the last half second has no frame, so its training cuts words there."""
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


def test_sft_clips_differ_from_the_recorded_ones_by_nothing_else():
    ours, theirs = produced("sft"), recorded("sft")
    known = set(changed_by("sft", loses_last_word=True)) | set(changed_by("sft", wants_all_capitals=True))
    assert {name for name in ours if ours[name] != theirs[name]} <= known
    assert changed_by("sft", measures_max_to_start=True) == []


def test_captions_give_the_same_clips_as_the_rules_for_lines():
    """From lines to clips; the reference counts a dash at the start of a line or between paragraphs as a word."""
    lines = {video["video"]: video["subtitles"] for video in read("captions")}
    words = dict(zip(lines, lines_to_words(list(lines.values())).to_pylist()))
    triples = {name: [tuple(word.values()) for word in spoken] for name, spoken in words.items()}
    by_rules = {name: [tuple(word) for word in spoken] for name, spoken in inputs("pretrain").items()}
    changed = [name for name in lines if triples[name] != by_rules[name]]
    assert [name[-7:-4] for name in changed] == ["010", "012", "013", "017", "018", "020", "021", "022", "028"]
    for name in changed:
        texts, by_rule = ([word[2] for word in given[name]] for given in (triples, by_rules))
        theirs, ours = ([word for word in words if word.strip("-–")] for words in (by_rule, texts))
        assert ours == theirs
        assert texts.count("–") <= 1  # within a line: what parts a sentence stays
    got = PretrainClips()(videos(triples)).kept.to_pylist()
    expected = {name: Rules(False).clips(spoken) for name, spoken in triples.items()}
    assert [len(clip["words"]) for clip in got] == [len(clip) for clips in expected.values() for clip, _ in clips]


def test_no_sft_clip_is_longer_than_the_limit():
    """The reference measures to the last word's start, so its clips may last longer than 240 s."""
    words = [(i * 2.0, i * 2.0 + 1.5, "word") for i in range(121)]  # the last one from 240 to 241.5 s
    faults = Faults(measures_max_to_start=True, leaves_no_frame=True)
    assert len(Rules(True, faults).clips(words)[0][0]) == 121
    result = SftClips()(videos({"a": words}))
    assert result.kept["end_s"].to_pylist() == [239.5]
    assert result.dropped["reason"].to_pylist() == ["mid_sentence"]


def test_word_times_show_a_silence_that_an_even_split_hides():
    """The reference splits every caption line evenly, even if its words have times."""
    spoken = [*talk(70), (60.0, 60.5, "so"), *talk(70, 60.5)]
    lines = [(word[0], word[1], word[2]) for word in talk(70)] + [
        (35.0, 60.5, " ".join(f"w{i}" for i in range(25)) + " so")
    ]
    hidden = [*words_of_lines(lines), *talk(70, 60.5)]
    cut = PretrainClips()
    assert len(cut(videos({"a": spoken})).kept) == 2
    assert len(cut(videos({"a": hidden})).kept) == 1


def test_a_word_that_rolling_captions_repeat_is_a_word_like_any_other():
    """The clip stages keep repeated words; the captions stage removes those of rolling captions."""
    words = talk(80)
    doubled = [*words[:40], (19.9, 20.0, "word39"), *words[40:]]
    texts = [word["word"] for word in PretrainClips()(videos({"a": doubled})).kept["words"][0].as_py()]
    assert texts == [word[2] for word in doubled]
