"""Speech recognition runs for real, on a Whisper with random weights and speech by espeak-ng."""

import itertools
import pickle

import pytest

pytest.importorskip("av")
pytest.importorskip("pyarrow")
pytest.importorskip("faster_whisper")

import av
import numpy as np
import pyarrow as pa
from faster_whisper.tokenizer import _LANGUAGE_CODES
from models import KEEP_NONSENSE, write_whisper
from speech import RATE_HZ, needs_espeak, speak, write_sound

from livecc_hf.production.backends.speech_audio import NoAudioError, SpeechAudio, decode_speech
from livecc_hf.production.errors import DeviceError
from livecc_hf.production.execution.pipeline import open_stage
from livecc_hf.production.execution.stage_runs import run_stage
from livecc_hf.production.execution.units import UnitState
from livecc_hf.production.schemas import DROPPED_SCHEMA, VIDEO_SCHEMA, words_array
from livecc_hf.production.stages.asr import stage as asr_stage
from livecc_hf.production.stages.asr.stage import Asr

OPTIONS = {"device": "cpu", "cpu_threads": 1, "beam_size": 1, **KEEP_NONSENSE}
TEXT = "The red circle moves to the left. A blue square follows it, slowly, and then it stops."


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return str(write_whisper(tmp_path_factory.mktemp("whisper") / "model", tmp_path_factory.mktemp("work")))


@pytest.fixture(scope="module")
def stage(whisper):
    stage = Asr(model=whisper, **OPTIONS)
    stage.open()
    return stage


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return speak(TEXT, tmp_path_factory.mktemp("speech"))


def videos(*paths, words=None, language=None) -> pa.Table:
    rows = len(paths)
    columns = {
        "id": [f"v{i}" for i in range(rows)],
        "video": [str(path) for path in paths],
        "language": [language] * rows,
        "duration_s": [36.0] * rows,
    }
    table = {name: columns.get(name, [None] * rows) for name in VIDEO_SCHEMA.names}
    return pa.table(table | {"words": words_array(words or [None] * rows)}, schema=VIDEO_SCHEMA)


@needs_espeak
def test_words_have_times_within_the_speech_and_are_in_order(stage, speech, tmp_path):
    result = stage(videos(write_sound(tmp_path / "a.mkv", speech, start_s=4.0)))
    assert result.kept.schema == VIDEO_SCHEMA and len(result.dropped) == 0
    (row,) = result.kept.to_pylist()
    words = row["words"]
    end_s = 4.0 + len(speech) / RATE_HZ
    assert words and all(4.0 <= w["start_s"] <= w["end_s"] <= end_s for w in words)
    assert all(a["start_s"] <= b["start_s"] for a, b in itertools.pairwise(words))
    assert all(w["word"] == w["word"].strip() != "" for w in words)
    assert row["language"] == "en"  # all that an English-only model can say


def test_no_model_is_loaded_where_all_videos_have_captions(tmp_path):
    """Then nothing is downloaded, and a missing network is no problem."""
    stage = Asr(model=str(tmp_path / "no_model"), device="cpu")
    with_words = videos("a.mp4", "b.mp4", words=[[(0.0, 1.0, "hi")], [(0.0, 1.0, "you")]])
    unit = UnitState(0, with_words, DROPPED_SCHEMA.empty_table(), ())
    assert run_stage(open_stage(stage, unit.rows), unit).rows.equals(with_words)
    with_one = videos("a.mp4", "b.mp4", words=[[(0.0, 1.0, "hi")], None])
    for needed, rows in ((stage, with_one), (Asr(model=stage.model, replace_words=True), with_words)):
        with pytest.raises(ValueError, match="no_model does not exist"):
            open_stage(needed, rows)


@needs_espeak
def test_words_shift_with_the_sound(stage, speech, tmp_path):
    now = stage(videos(write_sound(tmp_path / "now.mkv", speech))).kept["words"][0].as_py()
    later = stage(videos(write_sound(tmp_path / "later.mkv", speech, start_s=7.0))).kept["words"][0].as_py()
    assert [w["word"] for w in later] == [w["word"] for w in now]
    for name in ("start_s", "end_s"):
        assert [w[name] for w in later] == pytest.approx([w[name] + 7.0 for w in now], abs=0.002)


@needs_espeak
def test_words_count_from_what_a_player_shows_as_0(stage, speech, tmp_path):
    """As in a recording of a broadcast, whose timestamps start at hours."""
    path = write_sound(tmp_path / "now.mkv", speech, start_s=2.0)
    with av.open(str(path)) as whole, av.open(str(tmp_path / "broadcast.mkv"), "w") as copy:
        streams = [copy.add_stream_from_template(stream) for stream in whole.streams]
        for packet in whole.demux():
            if packet.size:
                packet.pts, packet.dts = (time + round(10_000 / packet.time_base) for time in (packet.pts, packet.dts))
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    now, late = (stage(videos(p)).kept["words"][0].as_py() for p in (path, tmp_path / "broadcast.mkv"))
    assert now[0]["start_s"] >= 2
    assert [w["word"] for w in late] == [w["word"] for w in now]
    for name in ("start_s", "end_s"):
        assert [w[name] for w in late] == pytest.approx([w[name] for w in now], abs=0.002)


@needs_espeak
def test_broken_and_silent_videos_are_dropped_and_the_rest_goes_on(stage, speech, tmp_path):
    (tmp_path / "broken.mkv").write_bytes(b"no video at all" * 50)
    batch = videos(
        tmp_path / "missing.mkv",
        write_sound(tmp_path / "good.mkv", speech),
        write_sound(tmp_path / "mute.mkv", None),
        tmp_path / "broken.mkv",
        write_sound(tmp_path / "silent.mkv", np.zeros(3 * RATE_HZ, np.int16)),
    )
    result = stage(batch)
    assert result.kept["id"].to_pylist() == ["v1"]
    assert result.dropped.schema == DROPPED_SCHEMA
    rows = {row["id"]: row for row in result.dropped.to_pylist()}
    reasons = {name: row["reason"] for name, row in rows.items()}
    assert reasons == {"v0": "error", "v2": "no_audio", "v3": "error", "v4": "no_speech"}
    assert "missing.mkv" in rows["v0"]["detail"] and "broken.mkv" in rows["v3"]["detail"]
    assert rows["v4"]["value"] == 0 and rows["v4"]["hours"] == pytest.approx(0.01)


def test_damage_is_said_where_nothing_is_heard_for_it(stage):
    audio = SpeechAudio(np.zeros(RATE_HZ, np.float32), 0.0, damage=("2 damaged spot(s) were skipped",))
    outcome = stage._outcome(audio, "a.mkv")
    assert (
        outcome.detail
        == "a voice in 0.0 s of 1.0 s, and no words; its sound is damaged: 2 damaged spot(s) were skipped"
    )


@needs_espeak
def test_videos_with_words_keep_them_unless_asked(stage, whisper, speech, tmp_path):
    path = write_sound(tmp_path / "a.mkv", speech)
    batch = videos(path, path, words=[[(0.0, 1.0, "captioned")], []], language="en-US")
    kept = stage(batch).kept
    assert kept["words"][0].as_py() == [{"start_s": 0.0, "end_s": 1.0, "word": "captioned"}]
    assert len(kept["words"][1]) > 0 and kept["language"].to_pylist() == ["en-US", "en-US"]
    again = Asr(model=whisper, **OPTIONS, replace_words=True)
    assert again(batch).kept["words"][0] == kept["words"][1]


@needs_espeak
def test_an_opened_stage_travels(stage, speech, tmp_path):
    batch = videos(write_sound(tmp_path / "a.mkv", speech))
    assert pickle.loads(pickle.dumps(stage))(batch).kept.equals(stage(batch).kept)


@needs_espeak
def test_a_multilingual_model_finds_the_language_or_is_told(speech, tmp_path):
    languages = ("en", "de", "fr")
    whisper = str(write_whisper(tmp_path / "model", tmp_path / "work", languages))
    path = write_sound(tmp_path / "a.mkv", speech)
    silent = write_sound(tmp_path / "silent.mkv", np.zeros(3 * RATE_HZ, np.int16))
    found = Asr(model=whisper, **OPTIONS)(videos(path, silent))
    assert found.kept["language"][0].as_py() in languages and len(found.kept["words"][0]) > 0
    assert found.dropped["reason"].to_pylist() == ["no_speech"]
    told = Asr(model=whisper, **OPTIONS, language="fr")(videos(path)).kept
    assert told["language"].to_pylist() == ["fr"] and len(told["words"][0]) > 0
    anew = Asr(model=whisper, **OPTIONS, multilingual=True)(videos(path)).kept
    assert anew["language"][0].as_py() in languages and len(anew["words"][0]) > 0


def test_an_empty_batch_is_fine(stage):
    result = stage(videos())
    assert len(result.kept) == len(result.dropped) == 0 and result.kept.schema == VIDEO_SCHEMA


def test_sound_stays_on_the_clock_over_a_gap(tmp_path):
    tone = (8000 * np.sin(np.arange(2 * RATE_HZ) / 5)).astype(np.int16)
    audio = decode_speech(write_sound(tmp_path / "gap.mkv", tone, start_s=1.5, gaps=((RATE_HZ, 3.0),)))
    assert audio.start_s == 1.5 and len(audio.samples) == 5 * RATE_HZ
    loud = [np.abs(second).max() > 0.1 for second in audio.samples.reshape(5, -1)]
    assert loud == [True, False, False, False, True]


def test_a_file_cut_short_gives_what_there_is(tmp_path):
    tone = (8000 * np.sin(np.arange(4 * RATE_HZ) / 5)).astype(np.int16)
    whole = write_sound(tmp_path / "whole.mkv", tone)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert RATE_HZ < len(decode_speech(cut).samples) < 3 * RATE_HZ


def test_no_audio_stream_is_an_error_of_its_own(tmp_path):
    with pytest.raises(NoAudioError, match=r"mute\.mkv has no audio stream"):
        decode_speech(write_sound(tmp_path / "mute.mkv", None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "huge"}, "'huge' is unknown: expected a folder, a Hub id, or one of .*large-v3-turbo"),
        ({"model": "tiny"}, "model tiny cannot be loaded: "),  # no network
        ({"device": "cuda:x"}, "'cuda:x': expected cpu, cuda or cuda:0"),
        ({"language": "fr"}, "language 'fr' is not one that .* knows: en; a multilingual model knows more"),
        ({"multilingual": True}, "multilingual is set, but .* knows only en; a multilingual model knows more"),
        ({"compute_type": "int3"}, "cannot be loaded: .*int3"),
    ],
)
def test_open_says_what_is_wrong(whisper, options, message):
    with pytest.raises(ValueError, match=message):
        Asr(**{"model": whisper, "device": "cpu"} | options).open()


def test_a_folder_in_another_layout_names_the_converter(published_checkpoint):
    with pytest.raises(ValueError, match="holds no model.bin.*ct2-transformers-converter"):
        Asr(model=str(published_checkpoint)).open()


def test_options_are_checked():
    with pytest.raises(ValueError, match="vad_threshold is 50: expected a probability"):
        Asr(vad_threshold=50)
    with pytest.raises(ValueError, match="max_silence_s is 0: expected seconds above 0"):
        Asr(max_silence_s=0)
    with pytest.raises(ValueError, match="beam_size is 0: expected at least 1"):
        Asr(beam_size=0)
    with pytest.raises(ValueError, match="cpu_threads is -1: expected 0 or more"):
        Asr(cpu_threads=-1)
    with pytest.raises(ValueError, match="language is 'en' and multilingual is set: expected only one of the two"):
        Asr(language="en", multilingual=True)
    with pytest.raises(ValueError, match="max_repeats is 0: expected at least 1, or null"):
        Asr(max_repeats=0)


@needs_espeak
def test_nonsense_is_dropped_and_said_by_rule(whisper, speech, tmp_path):
    path = write_sound(tmp_path / "a.mkv", speech)
    stage = Asr(model=whisper, **OPTIONS | {"no_speech_threshold": 0.0, "hallucination_silence_threshold": 2.0})
    result = stage(videos(path))
    assert len(result.kept) == 0 and result.dropped.schema == DROPPED_SCHEMA
    whole, part = result.dropped.to_pylist()
    assert whole["reason"] == "no_speech" and "and no words except" in whole["detail"] and whole["hours"] == 0.01
    assert part["reason"] == "silent_stretch" and part["hours"] is None and part["text"]
    count = len(Asr(model=whisper, **OPTIONS)(videos(path)).kept["words"][0])
    assert part["detail"].startswith(f"{count} of {count} words; at ")


@pytest.mark.gpu
@needs_espeak
def test_words_on_a_gpu(whisper, speech, tmp_path):
    batch = videos(write_sound(tmp_path / "a.mkv", speech))
    assert len(Asr(model=whisper, device="cuda", beam_size=1)(batch).kept["words"][0]) > 0


def test_the_encoder_takes_what_the_device_is_tried_with(stage):
    asr_stage._try_device(stage.loaded.model)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("CUDA failed with error unknown error", DeviceError),
        ("cuBLAS failed with status CUBLAS_STATUS_NOT_INITIALIZED", DeviceError),
        ("a shape that does not fit", None),
    ],
)
def test_a_device_that_fails_is_told_from_a_video_that_does(stage, monkeypatch, message, error):
    def fails(*_):
        raise RuntimeError(message)

    monkeypatch.setattr(Asr, "transcribe", fails)
    audio = SpeechAudio(np.zeros(16000, np.float32), 0.0)
    if error is None:
        assert stage._outcome(audio, "a.mp4").reason == "error"
    else:
        with pytest.raises(error, match=r"speech recognition failed at a\.mp4"):
            stage._outcome(audio, "a.mp4")


def test_a_language_has_several_codes(whisper):
    known = [*_LANGUAGE_CODES]
    for code, expected in [("eng", "en"), ("en_US", "en"), ("EN", "en"), ("jv", "jw"), ("fil", "tl"), ("nb", "no")]:
        assert Asr(model=whisper, **OPTIONS, language=code)._whisper_code(known) == expected
    assert Asr(model=whisper, **OPTIONS, language="nn")._whisper_code(known) == "nn"
    for code in ("gsw", "english"):
        with pytest.raises(ValueError, match=f"language '{code}' is not one that .* knows: "):
            Asr(model=whisper, **OPTIONS, language=code).open()
