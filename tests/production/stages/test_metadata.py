"""Videos are kept by their metadata, which is read from the file if the input does not give it."""

import pyarrow as pa
import pytest
from media import claim_length, write_video

from livecc_hf.production.schemas import DROPPED_SCHEMA, VIDEO_SCHEMA, words_array
from livecc_hf.production.stages.metadata import Metadata, Probe, probe

GOOD = {"title": "A match", "language": "en-GB", "duration_s": 60.0, "width_px": 854, "height_px": 480}


def videos(*rows, words=None) -> pa.Table:
    rows = [{"id": f"v{i}", "video": f"v{i}.mp4"} | row for i, row in enumerate(rows)]
    columns = {name: [row.get(name) for row in rows] for name in VIDEO_SCHEMA.names if name != "words"}
    return pa.table(columns | {"words": words_array(words or [None] * len(rows))}, schema=VIDEO_SCHEMA)


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text("WEBVTT\n")
    return {"captions": str(path)}


@pytest.mark.parametrize(
    ("change", "reason", "value", "detail"),
    [
        ({}, None, None, None),
        ({"width_px": 480, "height_px": 854}, None, None, None),
        ({"duration_s": 30.0}, None, None, None),
        ({"duration_s": 600.0}, None, None, None),
        ({"language": None}, None, None, None),
        ({"language": "EN_us"}, None, None, None),
        ({"language": "eng"}, None, None, None),
        ({"language": "und"}, None, None, None),
        ({"language": "English"}, "other_language", None, "English"),
        ({"title": " "}, "no_title", None, None),
        ({"title": None}, "no_title", None, None),
        ({"width_px": 640, "height_px": 360}, "low_resolution", 360, "640x360 px"),
        ({"duration_s": 29.9}, "too_short", 29.9, None),
        ({"duration_s": 600.1}, "too_long", 600.1, None),
        ({"language": "de"}, "other_language", None, "de"),
        ({"language": "enm"}, "other_language", None, "enm"),
        ({"captions": None}, "no_captions", None, "no captions are named"),
        ({"captions": "gone.vtt"}, "no_captions", None, "gone.vtt does not exist"),
        ({"width_px": None}, "no_metadata", None, "width_px unknown"),
        ({"duration_s": None}, "no_metadata", None, "duration_s unknown"),
    ],
)
def test_every_threshold(change, reason, value, detail, captions):
    result = Metadata()(videos(GOOD | captions | change))
    assert result.kept.schema == VIDEO_SCHEMA and result.dropped.schema == DROPPED_SCHEMA
    if reason is None:
        assert len(result.kept) == 1 and len(result.dropped) == 0
        return
    (row,) = result.dropped.to_pylist()
    assert len(result.kept) == 0
    assert (row["stage"], row["reason"], row["value"], row["detail"]) == ("metadata", reason, value, detail)


def test_thresholds_can_be_changed_and_words_count_as_captions(captions):
    batch = videos(GOOD, GOOD | {"language": "de", "title": None, "height_px": 240}, words=[[(0, 1, "hello")], None])
    assert Metadata()(batch).kept["id"].to_pylist() == ["v0"]
    lenient = Metadata(min_side_px=240, language="", needs_captions=False, needs_title=False)
    assert len(lenient(batch).kept) == 2
    assert Metadata(language="de", needs_title=False, min_side_px=0, needs_captions=False)(batch).kept[
        "id"
    ].to_pylist() == ["v1"]
    assert len(Metadata()(batch.slice(0, 0)).kept) == 0


@pytest.mark.parametrize("language", ["en", "EN", "en-US", "en_GB"])
def test_a_region_in_the_wanted_language_does_not_count(language):
    batch = videos(GOOD, GOOD | {"language": "de"}, GOOD | {"language": "en_US"})
    assert Metadata(language=language, needs_captions=False)(batch).kept["id"].to_pylist() == ["v0", "v2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_duration_s": 700}, "min_duration_s is 700 and max_duration_s 600"),
        ({"min_side_px": -1}, "min_side_px is -1"),
        ({"language": "english"}, "language is 'english': expected a language code"),
    ],
)
def test_thresholds_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Metadata(**options)


def test_what_the_input_lacks_is_read_from_the_file(tmp_path):
    video = write_video(tmp_path / "a.mp4", n_frames=20, fps=10, size_px=(96, 64), rotation_deg=90)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:200])
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    batch = videos(
        {"video": str(video)},
        {"video": str(broken)},
        {"video": str(video), "duration_s": 60.0},
        {"video": "not looked at", "duration_s": 60.0, "width_px": 640, "height_px": 480},
        {"video": str(text)},
        {"video": str(tmp_path / "gone.mp4")},
    )
    result = Probe()(batch)
    assert result.kept.schema == VIDEO_SCHEMA
    found = result.kept.select(["id", "duration_s", "width_px", "height_px"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("v0", pytest.approx(2.0, abs=0.11), 64, 96),
        ("v2", 60.0, 64, 96),
        ("v3", 60.0, 640, 480),
    ]
    dropped = result.dropped.to_pylist()
    assert [(row["id"], row["reason"]) for row in dropped] == [("v1", "error"), ("v4", "error"), ("v5", "error")]
    assert "broken.mp4" in dropped[0]["detail"] and "gone.mp4 does not exist" in dropped[2]["detail"]
    assert probe(str(video))["height_px"] == 96


def test_the_length_is_that_of_the_packets_whatever_the_header_says(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", n_frames=100, codec_options={"g": "5"})
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    claimed = claim_length(write_video(tmp_path / "claimed.mkv", n_frames=100), 3)
    browser = write_video(tmp_path / "rec.webm", n_frames=100, codec="libvpx", muxer_options={"live": "1"})
    late = write_video(tmp_path / "late.ts", times_s=[5 + i / 10 for i in range(100)], audio_s=None)
    lengths = [probe(str(path))["duration_s"] for path in (whole, claimed, browser, late)]
    assert lengths == pytest.approx([10, 10, 10, 10], abs=0.01)
    assert 4 < probe(str(cut))["duration_s"] < 8


@pytest.mark.parametrize("wanted", ["deu", "ger", "DE", "de_AT"])
def test_a_language_is_wanted_by_any_of_its_codes(captions, wanted):
    batch = videos(*(GOOD | captions | {"language": tag} for tag in ("de", "ger", "DE-de", None, "en", "nl")))
    result = Metadata(language=wanted)(batch)
    assert result.kept["language"].to_pylist() == ["de", "ger", "DE-de", None]
    assert result.dropped["detail"].to_pylist() == ["en", "nl"]
