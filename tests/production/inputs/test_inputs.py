"""Inputs: manifests, folders, metadata files; invalid lines; memory."""

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from livecc_hf.data.formats.folder import find_captioned_videos
from livecc_hf.production.inputs.videos import VIDEO_SUFFIXES, open_input
from livecc_hf.production.schemas import CLIP_SCHEMA, DROPPED_SCHEMA, VIDEO_SCHEMA


def read_all(source):
    tables = [source.read(unit) for unit in source.units()]
    return [row for rows, _ in tables for row in rows.to_pylist()], [
        row for _, dropped in tables for row in dropped.to_pylist()
    ]


def test_a_manifest_gives_units_of_consecutive_videos(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_text("".join(json.dumps({"video": f"{i}.mp4", "title": f"t{i}"}) + "\n" for i in range(7)))
    source = open_input(file, unit_videos=3)
    units = list(source.units())
    assert [(unit.number, unit.items) for unit in units] == [(0, 3), (1, 3), (2, 1)]
    rows, dropped = source.read(units[1])  # each alone, in any order
    assert rows.schema == VIDEO_SCHEMA
    assert dropped.schema == DROPPED_SCHEMA
    assert rows["id"].to_pylist() == ["3.mp4", "4.mp4", "5.mp4"]
    assert rows["video"].to_pylist() == [str(tmp_path / f"{i}.mp4") for i in (3, 4, 5)]
    assert [unit.items for unit in open_input(file, unit_videos=3, limit=4).units()] == [3, 1]


def test_bad_lines_are_dropped_with_their_number(tmp_path):
    file = tmp_path / "m.jsonl"
    lines = [
        '{"video": "a.mp4"}',
        "",
        "{not json",
        "[1, 2]",
        '{"title": "no video"}',
        '{"video": "b.mp4", "duration_s": "long"}',
        '{"video": "c.mp4", "words": [[2.0, 1.0, "back"]]}',
        '{"video": "d.mp4", "words": "hello"}',
        '{"video": "a.mp4"}',
        '{"video": "https://x.example/e.mp4", "id": 5}',
    ]
    file.write_bytes("\n".join(lines).encode() + b'\n{"video": "\xff"}\n')
    rows, dropped = read_all(open_input(file))
    assert [row["id"] for row in rows] == ["a.mp4", "5"]
    assert rows[1]["video"] == "https://x.example/e.mp4"
    assert [row["reason"] for row in dropped] == [
        *("not_json", "not_json", "no_video", "malformed", "malformed", "malformed", "not_json", "repeated"),
    ]
    assert {row["stage"] for row in dropped} == {"input"}
    assert "line 3 of m.jsonl is not JSON" in dropped[0]["detail"]
    assert "words: word 0 runs from 2.0 to 1.0" in dropped[4]["detail"]
    assert "line 11 of m.jsonl" in dropped[6]["detail"]


DEEP = '{"video": "a", "title": ' + "[" * 100_000 + "]" * 100_000 + "}"
HALF = "\\ud800"  # half of a character, as JSON and not as text


@pytest.mark.parametrize(
    "line",
    [
        DEEP,
        '{"video": "a", "duration_s": 1' + "0" * 400 + "}",
        '{"video": "a", "duration_s": 1' + "0" * 9000 + "}",
        f'{{"video": "a", "title": "x{HALF}"}}',
        f'{{"video": "a{HALF}"}}',
        f'{{"video": "a", "id": "x{HALF}"}}',
        f'{{"video": "a", "captions": "x{HALF}"}}',
        f'{{"video": "a", "words": [[0, 1, "x{HALF}"], [1, 2, "x{HALF}"]]}}',
        f'{{"video": "a", "words": [[0, 1{"0" * 400}, "x"]]}}',
        f'{{"video": "a", "subtitles": [[0, 1, "x{HALF}"]]}}',
        '{"video": "a\\u0000.mp4"}',
        '{"video": "a", "id": [1, {}], "words": [[0, 1]]}',
        '{"video": "a", "words": [5, {}]}',
        '{"video": "a", "words": [[0, 1, null]]}',
        '{"video": "a", "words": [[null, null, "x"]]}',
        '{"video": "a", "words": [[[0], [1], "x"]]}',
        f'{{"video": "a", "words": [[0, {"[" * 500 + "]" * 500}, "x"]]}}',
        '{"video": "a", "words": [{"start": 2, "end": 1, "word": "x"}, 7]}',
        '{"video": "a", "width_px": 1e400}',
    ],
    ids=lambda line: line[:60].replace("/", ""),
)
def test_one_bad_line_does_not_cost_the_others(tmp_path, line):
    file = tmp_path / "m.jsonl"
    file.write_text(f'{{"video": "good.mp4"}}\n{line}\n{{"video": "fine.mp4"}}\n')
    found, [dropped] = read_all(open_input(file))
    assert [row["id"] for row in found] == ["good.mp4", "fine.mp4"]
    assert dropped["reason"] in ("malformed", "not_json")
    assert dropped["detail"].startswith("line 2 of m.jsonl")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "parquet of lists"])
def test_one_bad_word_costs_one_word(tmp_path, kind):
    """A missing time is interpolated; unusable words are reported, and the row is kept."""
    words = [(0.0, 0.5, "so"), (None, None, "2014."), (1.5, None, "was"), (3.0, 2.0, "gone"), (2.0, 2.5, "good")]
    words = [dict(zip(("start", "end", "word"), word)) for word in words]
    rows = [
        {"video": "a.mp4", "words": words},
        {"video": "b.mp4", "words": words[:1]},
        {"video": "c.mp4", "words": None},
    ]
    if kind == "jsonl":
        del words[1]["start"], words[1]["end"]  # as whisperX writes a word that it cannot align
        (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    else:
        rows = [row | {"words": row["words"] and [[*map(str, word.values())] for word in row["words"]]} for row in rows]
        rows[0]["words"] = [[None if item == "None" else item for item in word] for word in rows[0]["words"]]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    found, [dropped] = read_all(open_input(next(tmp_path.glob("m.*"))))
    assert [row["id"] for row in found] == ["a.mp4", "b.mp4", "c.mp4"]
    spoken = [tuple(word.values()) for word in found[0]["words"]]
    assert spoken == [(0.0, 0.5, "so"), (0.5, 1.5, "2014."), (1.5, 2.0, "was"), (2.0, 2.5, "good")]
    assert (found[1]["words"][0]["word"], found[2]["words"]) == ("so", None)
    assert (dropped["id"], dropped["reason"]) == ("a.mp4", "lost_words")
    assert "1 of 5 lost: words: word 3 runs from 3.0 to 2.0 s" in dropped["detail"]


def test_metadata_that_cannot_be_opened_costs_one_video(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "a.info.json").symlink_to(tmp_path / "gone")
    (tmp_path / "b.info.json").write_text('{"title": ' + "[" * 100_000)
    (tmp_path / "c.info.json").write_text('{"title": "fine", "categories": "Sports"}')
    found, dropped = read_all(open_input(tmp_path))
    assert [(row["id"], row["title"]) for row in found] == [("c.mp4", "fine")]
    assert [(row["id"], row["reason"]) for row in dropped] == [("a.mp4", "malformed"), ("b.mp4", "malformed")]
    assert "a.info.json" in dropped[0]["detail"]


def test_words_and_subtitles_may_be_inline(tmp_path):
    file = tmp_path / "m.jsonl"
    rows = [
        {"video": "a", "words": [[1.0, 1.5, "two"], [0.0, 0.5, " one "], [2.0, 2.0, ""]]},
        {"video": "b", "words": [{"start": 0, "end": 1, "word": "hi"}]},
        {"video": "c", "subtitles": [[0, 2, "a whole line"], [2, 3, "[Music]"]]},
        {"video": "d"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    found, dropped = read_all(open_input(file))
    assert dropped == []
    assert [word["word"] for word in found[0]["words"]] == ["one", "two"]
    assert found[1]["words"] == [{"start_s": 0.0, "end_s": 1.0, "word": "hi"}]
    assert found[2]["words"] is None
    assert [line["text"] for line in found[2]["subtitles"]] == ["a whole line", "[Music]"]
    assert found[3]["words"] is None


def test_the_captions_stage_takes_inline_subtitles(tmp_path):
    from livecc_hf.production.stages.registry import make_stage

    file = tmp_path / "m.jsonl"
    line = {"video": "c", "subtitles": [[0, 2, "a whole line"], [2, 3, "[Music]"]]}
    file.write_text(json.dumps(line) + '\n{"video": "d", "words": [[0, 1, "hi"]]}\n')
    source = open_input(file)
    rows, _ = source.read(next(source.units()))
    kept = make_stage("captions", {"min_distinct_words": 1})(rows).kept
    assert kept.schema.equals(VIDEO_SCHEMA)
    assert [[word["word"] for word in words] for words in kept["words"].to_pylist()] == [["a", "whole", "line"], ["hi"]]


def test_paths_below_the_home_folder_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    names = ["~/a.mp4", "~take 1.mp4", "b.mp4"]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps({"video": name, "captions": name}) + "\n" for name in names))
    pq.write_table(pa.table({"video": names, "captions": names}), tmp_path / "m.parquet")
    wanted = ["/home/me/a.mp4", str(tmp_path / "~take 1.mp4"), str(tmp_path / "b.mp4")]
    for file in ("m.jsonl", "m.parquet"):
        rows, _ = read_all(open_input(tmp_path / file))
        assert [row["video"] for row in rows] == [row["captions"] for row in rows] == wanted


def test_what_is_no_input_is_left_out_and_said(tmp_path):
    """Hidden files, parts that yt-dlp did not merge, linked folders, captions without a video."""
    names = (".dataset.partial/videos/b.mp4", "shown/a.mp4", "shown/a.en.vtt", "shown/._a.mp4", "shown/.b.mp4")
    names += ("shown/e.f137.mp4", "shown/e.f140-drc.m4a", "shown/e.f2.mp4", "shown/lost.srt", "shown/notes.json")
    for name in (*names, "shown/._a.info.json"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    source = open_input(tmp_path / "in")
    assert [row["id"] for row in read_all(source)[0]] == ["shown/a.mp4", "shown/e.f2.mp4"]
    source.fingerprint()
    [said] = source.describe_left_out()
    assert said.startswith(f"left out of {tmp_path / 'in'}: linked folders (1, such as linked), ")
    assert "hidden videos (2, such as" in said and "parts of downloads (1, such as shown/e.f137.mp4)" in said
    assert said.endswith("captions without a video (1, such as shown/lost.srt)")
    (tmp_path / "elsewhere" / "a.mp4").touch()
    plain = open_input(tmp_path / "elsewhere")
    plain.fingerprint()
    assert plain.describe_left_out() == []


@pytest.mark.parametrize(
    ("categories", "category"),
    [(["Sports", "News"], "Sports"), ("Sports", "Sports"), ({"a": "b"}, None), ([], None), (5, None), ([3], None)],
)
def test_categories_of_any_type_cost_nothing(tmp_path, categories, category):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.info.json").write_text(json.dumps({"title": "t", "categories": categories}))
    [row], dropped = read_all(open_input(tmp_path))
    assert (row["title"], row["category"], dropped) == ("t", category, [])


def test_a_datasets_shard_gives_its_clips_back(tmp_path):
    from livecc_hf.production.outputs.published_formats import write_parquet
    from livecc_hf.production.schemas import words_array

    columns = {field.name: pa.nulls(1, field.type) for field in CLIP_SCHEMA}
    columns |= {"id": ["v#0"], "video": ["/v.mp4"], "start_s": [1.0], "end_s": [2.0], "previous": ["so"]}
    clips = pa.table(columns | {"words": words_array([[(1.0, 2.0, "hi")]])}, schema=CLIP_SCHEMA)
    write_parquet(tmp_path / "train.parquet", clips)
    source = open_input(tmp_path / "train.parquet")
    rows = source.read(next(source.units()))[0]
    assert rows["end_s"].to_pylist() == [2.5]  # with room for the last word; written again, it stays there
    assert rows.drop_columns("end_s").equals(clips.drop_columns("end_s"))
    write_parquet(tmp_path / "again.parquet", rows)
    assert pq.read_table(tmp_path / "again.parquet").equals(pq.read_table(tmp_path / "train.parquet"))


def test_a_folder_with_captions_and_metadata(tmp_path):
    names = [
        *("a.mp4", "a.en.vtt", "a.de.json3", "a.en.json3", "a.live_chat.json", "a.info.json"),
        *("sub/b.c.webm", "sub/b.c.srt", "sub/notes.txt", "z.mkv", "z.info.json", "gone.info.json", "gone.en.json3"),
        "list.info.json",
    ]
    (tmp_path / "sub").mkdir()
    for name in names:
        (tmp_path / name).touch()
    info = {"title": "A", "categories": ["Sports"], "language": "en", "duration": 61, "width": 1280, "height": 720}
    (tmp_path / "a.info.json").write_text(json.dumps(info))
    (tmp_path / "z.info.json").write_text("{broken")
    (tmp_path / "gone.info.json").write_text(json.dumps({"webpage_url": "https://x.example/watch?v=1", "duration": 5}))
    (tmp_path / "list.info.json").write_text(json.dumps({"_type": "playlist"}))
    rows, dropped = read_all(open_input(tmp_path, unit_videos=2))
    assert [row["id"] for row in rows] == ["a.mp4", "gone", "sub/b.c.webm"]
    assert rows[0]["captions"] == str(tmp_path / "a.en.json3")
    assert (rows[0]["title"], rows[0]["category"], rows[0]["duration_s"]) == ("A", "Sports", 61.0)
    assert (rows[0]["width_px"], rows[0]["height_px"]) == (1280, 720)
    assert rows[1]["video"] == "https://x.example/watch?v=1"
    assert rows[1]["captions"] == str(tmp_path / "gone.en.json3")
    assert rows[2]["captions"] == str(tmp_path / "sub/b.c.srt")
    assert {row["id"]: row["reason"] for row in dropped} == {"list": "malformed", "z.mkv": "malformed"}
    german = open_input(tmp_path, language="de")
    assert read_all(german)[0][0]["captions"] == str(tmp_path / "a.de.json3")


def test_options_that_an_input_does_not_use_are_refused(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=f"media_root=/videos: not with the folder of videos {tmp_path}"):
        open_input(tmp_path, root="/videos")
    (tmp_path / "m.jsonl").write_text('{"video": "a.mp4"}\n')
    for root in (tmp_path / "none", tmp_path / "a.mp4"):
        with pytest.raises(ValueError, match=f"media_root={root} is not a folder: expected the one at which"):
            open_input(tmp_path / "m.jsonl", root=root)
    with pytest.raises(ValueError, match="language=de: not with .*m.jsonl, whose rows name their captions"):
        open_input(tmp_path / "m.jsonl", language="de")
    for language in ("en", None):
        assert len(read_all(open_input(tmp_path / "m.jsonl", language=language, root=tmp_path))[0]) == 1


def test_names_that_share_their_beginning_keep_their_captions(tmp_path):
    names = ("a.mp4", "a.vtt", "a b.mp4", "a b.en.srt", "a-b.mp4", "a.b.mp4", "a.b.json", "a.b.en.vtt", "b.mp4")
    for name in (*names, "b.comments.json", "b.live_chat.json"):  # what yt-dlp writes too
        (tmp_path / name).touch()
    found, dropped = read_all(open_input(tmp_path, unit_videos=2))
    assert not dropped
    assert {row["id"]: row["captions"] and Path(row["captions"]).name for row in found} == {
        "a b.mp4": "a b.en.srt",
        "a-b.mp4": None,
        "a.mp4": "a.vtt",
        "a.b.mp4": "a.b.json",
        "b.mp4": None,
    }


@pytest.mark.parametrize(
    "names", [*combinations(("a.srt", "a.vtt", "a.json", "a.en.vtt", "a.en.json3", "a.en-US.srt"), 2)]
)
def test_training_on_a_folder_reads_the_same_captions(tmp_path, names):
    for name in ("a.mp4", "a.info.json", "a.comments.json", *names):
        (tmp_path / name).write_text("{}")
    [[video], _] = find_captioned_videos(tmp_path)
    [row], _ = read_all(open_input(tmp_path))
    assert row["captions"] == str(tmp_path / video.captions)


def test_video_suffixes_are_those_of_the_training_folder():
    from livecc_hf.data.formats import folder

    assert folder.VIDEO_SUFFIXES == VIDEO_SUFFIXES


def test_a_fingerprint_changes_with_the_input(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"1")
    before = open_input(tmp_path).fingerprint()
    assert open_input(tmp_path).fingerprint() == before
    (tmp_path / "b.mp4").touch()
    assert open_input(tmp_path).fingerprint() != before


def test_what_is_no_input_is_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder of videos"):
        open_input(tmp_path / "none")
    (tmp_path / "m.csv").touch()
    with pytest.raises(ValueError, match="ends in '.csv': expected a folder of videos"):
        open_input(tmp_path / "m.csv")
    (tmp_path / "m.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="m.parquet is not a Parquet file"):
        open_input(tmp_path / "m.parquet")
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="has no column 'video'; it has: path"):
        open_input(tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="unit_videos is 0"):
        open_input(tmp_path, unit_videos=0)
    with pytest.raises(ValueError, match="limit is 0"):
        open_input(tmp_path, limit=0)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
def test_a_million_lines_take_little_memory(tmp_path):
    words = json.dumps([[i, i + 0.5, f"word{i}"] for i in range(5)])
    with (tmp_path / "m.jsonl").open("w") as file:
        for i in range(1_000_000):
            file.write(f'{{"video": "{i}.mp4", "title": "a title", "duration_s": 60, "words": {words}}}\n')
    code = f"""
from pathlib import Path
from livecc_hf.production.inputs.videos import open_input
source = open_input({str(tmp_path / "m.jsonl")!r})
rows = sum(len(source.read(unit)[0]) for unit in source.units())
status = Path("/proc/self/status").read_text()  # getrusage would count the parent's peak too
print(rows, int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows, megabytes = map(int, result.stdout.split())
    assert rows == 1_000_000
    assert megabytes < 500
