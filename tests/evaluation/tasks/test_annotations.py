"""Annotations and videos of benchmarks are found and read, in every published layout."""

import json

import pytest
from layouts import write_json, write_lines

from livecc_hf.evaluation.tasks.annotations import (
    FILE_COLUMN,
    PINNED_REVISIONS,
    read_annotations,
    seconds,
)
from livecc_hf.evaluation.tasks.videos import VideoFolder


class TestAnnotations:
    def test_json_lines_tables_and_parquet(self, tmp_path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        values = [{"a": 1, "b": ["x"]}, {"a": 2, "b": ["y"]}]
        pq.write_table(pa.Table.from_pylist(values), tmp_path / "t.parquet")
        files = [
            write_json(tmp_path / "a.json", values),
            write_lines(tmp_path / "b.jsonl", values),
            write_lines(tmp_path / "c.json", values),  # JSON Lines in a .json file
            write_json(tmp_path / "d.json", {"data": values}),
            write_lines(tmp_path / "e.jsonl", [json.dumps(value) for value in values]),  # JSON in JSON
            tmp_path / "t.parquet",
        ]
        for file in files:
            found = read_annotations("videomme", "x/y", file)
            assert found.rows == values, file
            assert (found.source, len(found.revision)) == (file.name, 16)

    def test_texts_may_hold_unicode_line_separators_and_start_with_a_byte_order_mark(self, tmp_path):
        values = [{"a": "one\u2028two\x85three"}, {"a": "four"}]
        lines = "".join(json.dumps(value, ensure_ascii=False) + "\r\n" for value in values)
        for name, text in (("a.jsonl", lines), ("b.JSONL", lines), ("c.json", lines), ("d.json", json.dumps(values))):
            (tmp_path / name).write_text(text, encoding="utf-8-sig", newline="")
            assert read_annotations("videomme", "x/y", tmp_path / name).rows == values, name

    @pytest.mark.parametrize("value", ["nan", float("inf"), "soon", 10**400])
    def test_times_that_are_not_finite_numbers_are_named(self, value):
        with pytest.raises(ValueError, match="row 3 of the annotations: begin is .*: expected seconds"):
            seconds({"begin": value}, 3, "begin")

    def test_a_folder_of_files(self, tmp_path):
        write_json(tmp_path / "json/action_count.json", [{"a": 1}])
        write_json(tmp_path / "json/state_change.json", [{"a": 2}])
        found = read_annotations("mvbench", "x/y", tmp_path / "json")
        assert found.rows == [{"a": 1, FILE_COLUMN: "action_count"}, {"a": 2, FILE_COLUMN: "state_change"}]

    def test_the_pinned_commit_is_read_by_default(self, tmp_path, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        pinned, newer = PINNED_REVISIONS["OpenGVLab/MVBench"], "f" * 40
        cache = tmp_path / "datasets--OpenGVLab--MVBench"
        (cache / "refs").mkdir(parents=True)
        (cache / "refs/main").write_text(newer)
        for number, commit in enumerate((pinned, newer)):
            write_json(cache / f"snapshots/{commit}/json/action_count.json", [{"a": number}])
        found = read_annotations("mvbench", "OpenGVLab/MVBench")
        assert (found.rows, found.source, found.revision) == ([{"a": 0}], "OpenGVLab/MVBench", pinned)
        found = read_annotations("mvbench", "OpenGVLab/MVBench", revision="main")
        assert (found.rows, found.revision) == ([{"a": 1}], newer)

    def test_files_that_cannot_be_read(self, tmp_path):
        (tmp_path / "a.json").write_text("{")
        with pytest.raises(ValueError, match=r"a\.json is not JSON"):
            read_annotations("videomme", "x/y", tmp_path / "a.json")
        (tmp_path / "latin.json").write_bytes(b'[{"a": "caf\xe9"}]')
        with pytest.raises(ValueError, match=r"latin\.json is not JSON: 'utf-8' codec"):
            read_annotations("videomme", "x/y", tmp_path / "latin.json")
        with pytest.raises(ValueError, match="holds no rows"):
            read_annotations("videomme", "x/y", write_json(tmp_path / "b.json", []))
        with pytest.raises(ValueError, match="does not hold rows"):
            read_annotations("videomme", "x/y", write_json(tmp_path / "c.json", [1]))
        with pytest.raises(ValueError, match=r"d\.json does not hold rows"):
            read_annotations("videomme", "x/y", write_json(tmp_path / "d.json", "text"))
        with pytest.raises(ValueError, match=r"not on the Hub as files: .*--annotations \(data/ovo_bench_new\.json"):
            read_annotations("ovobench", "x/y")
        with pytest.raises(ValueError, match=r"cannot be fetched from x/y: .*give a file with the questions instead"):
            read_annotations("videomme", "x/y")


def test_videos_are_found_however_they_were_unpacked(tmp_path):
    for name in ("videos/a.mp4", "deep/er/b.mkv", "frames/show_1/00001.jpg", "src/x/same.mp4", "src/y/same.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/linked.mp4").write_bytes(b"")
    (tmp_path / "videos/link").symlink_to(tmp_path / "archive")
    (tmp_path / "videos/loop").symlink_to(tmp_path)
    folder = VideoFolder(tmp_path / "videos")
    assert folder.find(["linked.mkv"]) is not None
    folder = VideoFolder(tmp_path)
    assert folder.find(["a.mp4"]) == tmp_path / "videos/a.mp4"
    assert folder.find(["b.mp4"]) == tmp_path / "deep/er/b.mkv"  # another ending
    assert folder.find(["tvqa/show_1"]) == tmp_path / "frames/show_1"
    assert folder.find(["src/y/same.mp4"]) == tmp_path / "src/y/same.mp4"
    assert folder.find(["none.mp4", "a.mp4"]) == tmp_path / "videos/a.mp4"
    assert folder.find(["none.mp4"]) is None
    assert folder.find(["D:\\clips\\a.mp4"]) == tmp_path / "videos/a.mp4"
    assert folder.find(["", "x" * 5000]) is None
    assert folder.find(["show_2"]) is None
    with pytest.raises(FileNotFoundError, match="is not a folder: expected one with the benchmark's videos"):
        VideoFolder(tmp_path / "none")
