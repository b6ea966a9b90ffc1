"""Captions are matched to videos, and chosen among several, by the same rules for building data and for training."""

import pytest

from livecc_hf.captions.naming import CaptionTag, LeftOut, parse_tag, walk_videos
from livecc_hf.data.formats.folder import find_captioned_videos
from livecc_hf.production.inputs.videos import open_input


def built(folder, language):
    source = open_input(folder, language=language)
    rows = [row for unit in source.units() for row in source.read(unit)[0].to_pylist()]
    return {row["id"]: row["captions"] and row["captions"].removeprefix(f"{folder}/") for row in rows}


def trained(folder, language):
    try:
        found, bare = find_captioned_videos(folder, language)
    except ValueError:  # no video has captions
        return None
    return {str(item.video): str(item.captions) for item in found} | {str(video): None for video in bare}


CHOICES = [
    # files, requested language, chosen captions
    ("m.mp4 m.en-de.json3 m.en.json3", "en", "m.en.json3"),  # translated by machine from German
    ("m.mp4 m.en-de.json3 m.en.srt", "en", "m.en.srt"),
    ("m.mp4 m.en-zh-Hans.json3 m.en-US.srt", "en", "m.en-US.srt"),
    ("m.mp4 m.en-de.json3 m.de.srt", "en", "m.en-de.json3"),
    ("m.mp4 m.deu.srt m.eng.srt", "en", "m.eng.srt"),
    ("m.mp4 m.ger.srt m.eng.srt", "de", "m.ger.srt"),  # the other code of ISO 639-2
    ("m.mp4 m.en.srt m.pt_BR.srt", "pt", "m.pt_BR.srt"),
    ("m.mp4 m.pt-PT.json3 m.pt_BR.srt", "pt-BR", "m.pt_BR.srt"),
    ("m.mp4 m.pt-PT.json3 m.pt.srt", "pt-BR", "m.pt.srt"),
    ("m.mp4 m.en.srt m.pt-br.vtt", "pt", "m.pt-br.vtt"),
    ("m.mp4 m.en.forced.srt m.en.srt", "en", "m.en.srt"),
    ("m.mp4 m.forced.en.json m.en.srt", "en", "m.en.srt"),
    ("m.mp4 m.en.forced.srt", "en", None),
    ("m.mp4 m.en.sdh.srt m.fr.json3", "en", "m.en.sdh.srt"),
    ("m.mp4 m.EN.srt m.DE.srt", "en", "m.EN.srt"),
    ("m.MP4 m.SRT", "en", "m.SRT"),
    ("m.MP4 m.INFO.JSON m.VTT", "en", "m.VTT"),
    ("m.mp4 m.hi.srt m.en.hi.srt", "hi", "m.hi.srt"),
    ("m.mp4 m.hi.srt m.en.hi.srt", "en", "m.en.hi.srt"),
    ("m.mp4 m.en.vtt m.srt m.en.json3", "en", "m.srt"),
    ("m.mp4 m.en.vtt m.en-orig.json3", "en", "m.en-orig.json3"),
    ("m.mp4 m.mp4.srt", "en", "m.mp4.srt"),
    ("m.mp4 m.fr.srt", "en", "m.fr.srt"),
    ("m.mp4 m.fr.srt m.de.vtt", None, "m.de.vtt"),
    ("m.mp4 m.part2.srt m.en.srt", "en", "m.en.srt"),
    ("m.mp4 m.part.two.srt", "en", None),  # unknown tag of two parts: probably another video's
    ("a.MTS a.en.srt", "en", "a.en.srt"),
    ("b.m2ts b.vtt", "en", "b.vtt"),
    ("c.3gp c.srt", "en", "c.srt"),
    ("d.ogv d.srt", "en", "d.srt"),
    ("e.VOB e.srt", "en", "e.srt"),
]


@pytest.mark.parametrize(("files", "language", "taken"), CHOICES)
def test_building_and_training_take_the_same_captions(tmp_path, files, language, taken):
    for name in files.split():
        (tmp_path / name).write_text("{}")
    video = files.split()[0]
    assert built(tmp_path, language) == {video: taken}
    assert trained(tmp_path, language) == (taken and {video: taken})


def test_captions_belong_to_the_video_with_the_longest_name(tmp_path):
    for name in ("a.mp4", "a.b.mp4", "a.b.en.vtt", "a.en.sdh.srt", "a.b.c.srt", "sub/a.mp4", ".hidden/a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    expected = {"a.mp4": "a.en.sdh.srt", "a.b.mp4": "a.b.en.vtt", "sub/a.mp4": None}
    assert built(tmp_path, "en") == trained(tmp_path, "en") == expected


def test_skipped_files_are_counted(tmp_path):
    for name in ("a.mp4", "a.en.forced.srt", "b.en.vtt", "a.one.two.srt", "a.f137.mp4", "._a.mp4", "b.json"):
        (tmp_path / name).touch()
    left_out = LeftOut()
    assert list(walk_videos(tmp_path, "en", left_out)) == [("a.mp4", None, None)]
    assert left_out.counts == {
        "captions of foreign lines only": 1, "captions without a video": 2, "parts of downloads": 1, "hidden videos": 1
    }  # fmt: skip


@pytest.mark.parametrize("language", ["english", "qq", ""])
def test_an_unknown_language_is_refused(tmp_path, language):
    (tmp_path / "m.mp4").touch()
    (tmp_path / "m.srt").touch()
    for find in (find_captioned_videos, built):
        with pytest.raises(ValueError, match=f"language is {language!r}: expected a language code such as en or pt-BR"):
            find(tmp_path, language)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("", CaptionTag()),
        ("zh-Hant", CaptionTag("zh", "hant")),
        ("zho_TW", CaptionTag("zh", "tw")),
        ("en-us", CaptionTag("en", "us")),
        ("de-en", CaptionTag("de", is_translated=True)),
        ("en-pt-BR", CaptionTag("en", is_translated=True)),
        ("forced", CaptionTag(is_forced=True)),
        ("qq9", CaptionTag(is_known=False)),
        ("en.de", CaptionTag("en", is_known=False)),
    ],
)
def test_tags(tag, expected):
    assert parse_tag(tag) == expected
