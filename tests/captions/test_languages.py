"""Which codes name the same language."""

import pytest

from livecc_hf.captions.languages import check_language, is_same_language, language_code
from livecc_hf.captions.naming import LeftOut, walk_videos


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        (("en", "eng", "EN", "en-US", "en_US", "en-GB-oxendict", " en "), "en"),
        (("de", "ger", "deu", "de_AT"), "de"),
        (("zh", "chi", "zho", "cmn", "zh-Hant-TW"), "zh"),
        (("he", "iw", "heb"), "he"),
        (("fil", "tl", "tgl"), "fil"),
        (("yue",), "yue"),
        (("", "und", "english", "e", "qq", "en.", "12"), None),
    ],
)
def test_codes(tags, code):
    assert {language_code(tag) for tag in tags} == {code}


def test_the_same_language():
    for one, other in [("eng", "en-US"), ("no", "nb"), ("jw", "jv"), ("pes", "fa")]:
        assert is_same_language(one, other) and is_same_language(other, one)
    for one, other in [("en", "de"), ("zh", "yue"), ("nn", "nb"), ("hr", "sr"), ("ms", "id"), ("qq", "qq"), ("", "")]:
        assert not is_same_language(one, other) and not is_same_language(other, one)
    check_language("pt_BR")
    with pytest.raises(ValueError, match="spoken is 'klingonese': expected a language code such as en or pt-BR"):
        check_language("klingonese", "spoken")


@pytest.mark.parametrize("language", ["en", "eng", "EN", "en_US", "en-GB"])
@pytest.mark.parametrize("tag", ["en", "eng", "EN", "en-US", "en_GB"])
def test_captions_are_found_by_any_code(tmp_path, language, tag):
    for name in ("a.mp4", f"a.{tag}.srt", "a.de.json3"):
        (tmp_path / name).touch()
    assert list(walk_videos(tmp_path, language, LeftOut())) == [("a.mp4", f"a.{tag}.srt", None)]
