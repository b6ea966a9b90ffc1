"""Parquet manifests of all kinds: an invalid value drops a row, as in JSON Lines."""

import json
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from livecc_hf.production.inputs.videos import open_input
from livecc_hf.production.schemas import CLIP_SCHEMA, VIDEO_SCHEMA


def read_all(source):
    tables = [source.read(unit) for unit in source.units()]
    return [row for rows, _ in tables for row in rows.to_pylist()], [
        row for _, dropped in tables for row in dropped.to_pylist()
    ]


def read_parquet(path, columns):
    pq.write_table(pa.table(columns), path)
    return read_all(open_input(path))


@pytest.mark.parametrize("name", ["duration_s", "width_px", "height_px"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, -0.6, 2.0**31, 1e300])
def test_a_number_that_makes_no_sense_costs_its_row(tmp_path, name, value):
    columns = {"video": ["a.mp4", "b.mp4", "c.mp4"], name: [60.0, value, None]}
    found, [dropped] = read_parquet(tmp_path / "m.parquet", columns)
    assert [(row["id"], row[name]) for row in found] == [("a.mp4", 60), ("c.mp4", None)]
    assert (dropped["id"], dropped["video"], dropped["reason"]) == ("b.mp4", "b.mp4", "malformed")
    assert dropped["detail"].startswith(f"row 1 of m.parquet: {name} is ")
    lines = [{"video": video, name: number} for video, number in zip(*columns.values())]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    same, [also] = read_all(open_input(tmp_path / "m.jsonl"))
    assert same == found and also["reason"] == "malformed"


def test_values_of_other_types_fit_or_cost_their_row(tmp_path):
    columns = {
        "video": [f"{i}.mp4" for i in range(4)],
        "width_px": [640.0, 640.5, 641.5, None],
        "duration_s": ["60.5", "N/A", "12", None],
        "title": [1, 2, 3, None],
    }
    found, [dropped] = read_parquet(tmp_path / "m.parquet", columns)
    assert [(row["id"], row["width_px"], row["duration_s"], row["title"]) for row in found] == [
        *(("0.mp4", 640, 60.5, "1"), ("2.mp4", 642, 12.0, "3"), ("3.mp4", None, None, None)),
    ]
    assert dropped["detail"] == "row 1 of m.parquet: duration_s is 'N/A': expected a number from 0 to 2147483647"
    found, dropped = read_parquet(tmp_path / "n.parquet", {"video": ["a", "b"], "title": [{"text": "x"}, None]})
    assert [row["id"] for row in found] == ["b"] and "title is {'text': 'x'}: expected text" in dropped[0]["detail"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_an_empty_id_is_the_video(tmp_path, kind):
    ids = pa.array(["", "", "x", None], pa.string()).cast(kind)
    found, dropped = read_parquet(tmp_path / "m.parquet", {"id": ids, "video": ["a", "b", "c", "d"]})
    assert [row["id"] for row in found] == ["a", "b", "x", "d"] and dropped == []


def test_a_video_feature_is_its_path(tmp_path):
    """As `datasets` stores it; the bytes of a video are not read."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    videos = [{"bytes": None, "path": "videos/a.mp4"}, {"bytes": b"x" * 1000, "path": None}, None]
    videos.append({"bytes": b"x", "path": "hf://datasets/me/x/b.mp4"})
    found, dropped = read_parquet(tmp_path / "m.parquet", {"video": pa.array(videos, kind), "title": list("abcd")})
    assert [(row["video"], row["title"]) for row in found] == [
        (str(tmp_path / "videos/a.mp4"), "a"),
        ("hf://datasets/me/x/b.mp4", "d"),
    ]
    assert [(row["reason"], row["detail"][:6]) for row in dropped] == [("no_video", "row 1 "), ("no_video", "row 2 ")]
    pq.write_table(pa.table({"video": pa.array([{"uri": "a"}])}), tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match=r"odd.parquet: column 'video' is struct<uri: string>: expected paths"):
        open_input(tmp_path / "odd.parquet")


def test_every_file_of_a_folder_is_looked_at_first(tmp_path):
    pq.write_table(pa.table({"video": ["a"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"path": ["b"]}), tmp_path / "1.parquet")
    with pytest.raises(ValueError, match=r"1\.parquet has no column 'video'; it has: path"):
        open_input(tmp_path)
    pq.write_table(pa.table({"video": ["b"], "start_s": [0.0], "end_s": [1.0]}), tmp_path / "1.parquet")
    with pytest.raises(ValueError, match=r"1\.parquet holds clips, but .*0\.parquet videos: expected one kind"):
        open_input(tmp_path)
    (tmp_path / "1.parquet").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"1\.parquet is not a Parquet file"):
        open_input(tmp_path)


def test_words_of_any_shape_keep_their_place_in_the_unit(tmp_path):
    """Odd words are read one by one, but the other columns of the file are not."""
    words = pa.array([[["0", "1", "a"]], None, [["2", "1", "back"]], [["1", "2", "b"], ["0", "1", "c"]]])
    columns = {"video": ["a", "b", "c", "d"], "duration_s": ["1", "2", "3", "4"], "words": words}
    found, [dropped] = read_parquet(tmp_path / "m.parquet", columns)
    assert [row["id"] for row in found] == ["a", "b", "d"]
    spoken = [[word["word"] for word in row["words"] or []] for row in found]
    assert spoken == [["a"], [], ["c", "b"]] and found[1]["words"] is None
    assert "row 2 of m.parquet: words: word 0 runs from 2" in dropped["detail"]
    assert open_input(tmp_path / "m.parquet").schema == VIDEO_SCHEMA


@pytest.mark.parametrize("footer", [b"", b"\7" * 40 + struct.pack("<I", 40) + b"PAR1"], ids=["none", "damaged"])
def test_a_file_with_a_damaged_footer_is_named(tmp_path, footer):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1" + footer)
    with pytest.raises(ValueError, match=r"cut\.parquet is not a Parquet file: "):
        open_input(tmp_path / "cut.parquet")


def test_a_file_with_damaged_rows_is_named(tmp_path):
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"video": [f"{i}.mp4" for i in range(1000)]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    begin = pq.ParquetFile(path).metadata.row_group(0).column(0).dictionary_page_offset or 4
    data[begin : begin + 400] = b"\xff" * 400
    path.write_bytes(data)
    source = open_input(path)
    with pytest.raises(ValueError, match=r"m\.parquet is damaged: "):
        source.read(next(source.units()))


@pytest.mark.parametrize("row_group_size", [4, 1000])
def test_parquet_is_read_like_the_same_manifest(tmp_path, row_group_size):
    rows = [
        {"id": f"v{i}", "video": f"{i}.mp4", "words": [{"start_s": i, "end_s": i + 0.5, "word": "w"}], "width_px": 640}
        for i in range(11)
    ]
    rows[4]["video"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet", row_group_size=row_group_size)
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    from_parquet, from_json = (open_input(tmp_path / name, unit_videos=3) for name in ("m.parquet", "m.jsonl"))
    assert read_all(from_parquet)[0] == read_all(from_json)[0]
    [dropped] = read_all(from_parquet)[1]
    assert (dropped["reason"], dropped["detail"][:20]) == ("no_video", "row 4 of m.parquet: ")
    units = list(from_parquet.units())
    backwards = [from_parquet.read(unit)[0]["id"].to_pylist() for unit in units[::-1]]
    assert backwards == [["v9", "v10"], ["v6", "v7", "v8"], ["v3", "v5"], ["v0", "v1", "v2"]]


@pytest.mark.parametrize(("unit_videos", "limit"), [(1, None), (4, None), (4, 6), (5, 11), (100, None), (3, 100)])
def test_units_of_parquet_files_hold_each_row_once(tmp_path, unit_videos, limit):
    sizes, rows = [3, 0, 1, 7, 0], []
    for number, size in enumerate(sizes):
        names = [f"{number}-{row}.mp4" for row in range(size)]
        rows += names
        pq.write_table(pa.table({"video": pa.array(names, pa.string())}), tmp_path / f"{number}.parquet")
    source = open_input(tmp_path, unit_videos=unit_videos, limit=limit)
    units = list(source.units())
    found = [Path(name).name for unit in units for name in source.read(unit)[0]["video"].to_pylist()]
    assert found == rows[:limit]
    assert [unit.number for unit in units] == list(range(len(units)))
    assert all(unit.items == unit_videos for unit in units[:-1]) and 0 < units[-1].items <= unit_videos


def test_parquet_of_clips_goes_on_with_clips(tmp_path):
    clip = {"id": "v#0", "video": "/v.mp4", "start_s": 0.0, "end_s": 1.0, "previous": "", "title": "t"}
    pq.write_table(pa.Table.from_pylist([clip]), tmp_path / "clips.parquet")
    source = open_input(tmp_path / "clips.parquet")
    rows, _ = source.read(next(source.units()))
    assert rows.schema.equals(CLIP_SCHEMA)
    assert rows["end_s"].to_pylist() == [1.0]


@pytest.mark.parametrize(
    "words",
    [
        pa.array([[{"word": "hi", "end": 2.0, "start": 1.5}]] * 4),
        pa.array([[["1.5", "2.0", "hi"]]] * 4),
    ],
    ids=["other order", "lists"],
)
def test_clips_keep_their_times_whatever_type_their_words_have(tmp_path, words):
    columns = {"id": [f"v#{i}" for i in range(4)], "video": ["/v.mp4"] * 4, "words": words, "previous": ["so"] * 4}
    columns |= {"start_s": [1.0, 1.0, None, 3.0], "end_s": [2.0, 2.5, 2.0, 2.0], "query": ["Why?"] * 4}
    columns |= {"text_loss": [2.5] * 4}
    pq.write_table(pa.table(columns), tmp_path / "clips.parquet")
    found, dropped = read_all(open_input(tmp_path / "clips.parquet"))
    assert [(row["id"], row["start_s"], row["end_s"]) for row in found] == [("v#0", 1.0, 2.0), ("v#1", 1.0, 2.5)]
    for row in found:
        assert (row["previous"], row["query"], row["text_loss"], row["title"]) == ("so", "Why?", 2.5, None)
        assert row["words"] == [{"start_s": 1.5, "end_s": 2.0, "word": "hi"}]
    assert [(row["id"], row["reason"]) for row in dropped] == [("v#2", "malformed"), ("v#3", "malformed")]
    assert "the clip runs from None to 2.0 s" in dropped[0]["detail"]
