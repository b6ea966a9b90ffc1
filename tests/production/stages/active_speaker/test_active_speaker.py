"""The stage active_speaker runs for real: videos of a face, ONNX detectors, random and published weights."""

import pickle

import numpy as np
import pytest
import torch
from clip_tables import clips
from face_detectors import YuNetLayout, write_detector
from real_weights import LIGHT_ASD, needs_light_asd
from talking_videos import RATE_HZ, Face, write_talking_video

from livecc_hf.production.errors import DeviceError
from livecc_hf.production.schemas import CLIP_SCHEMA, DROPPED_SCHEMA
from livecc_hf.production.stages.active_speaker.networks import LightAsd, LrAsd
from livecc_hf.production.stages.active_speaker.stage import ActiveSpeaker
from livecc_hf.production.stages.registry import make_stage

LEFT, RIGHT = {"left_px": 20}, {"left_px": 204}


def syllables(length_s: float, seed: int = 0) -> np.ndarray:
    """Sound that swells and fades as speech does, four times a second: int16, 16 kHz."""
    t = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    voice = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 12))
    noise = np.random.default_rng(seed).normal(size=len(t)) * 0.1
    return ((voice + noise) * np.maximum(np.sin(2 * np.pi * 2 * t), 0) * 5000).astype(np.int16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("speakers")
    write_detector(folder / "yunet.onnx", YuNetLayout())
    for name, kind in (("light", LightAsd), ("lr", LrAsd)):
        torch.manual_seed(5)
        torch.save(kind().state_dict(), folder / f"{name}.model")
    sound = syllables(2)
    write_talking_video(folder / "two.mkv", sound, [Face(**LEFT, is_moved=True), Face(**RIGHT)], 2)
    write_talking_video(folder / "none.mkv", sound, [], 2)
    write_talking_video(folder / "mute.mkv", None, [Face()], 1)
    write_talking_video(folder / "silent.mkv", np.zeros(RATE_HZ, np.int16), [Face()], 1)
    (folder / "broken.mkv").write_bytes(b"no video at all" * 50)
    return folder


def make(folder, model="light.model", **options) -> ActiveSpeaker:
    options = {"model": str(folder / model), "detector": str(folder / "yunet.onnx"), "device": "cpu"} | options
    return make_stage("active_speaker", options)


def scored(stage: ActiveSpeaker, *rows) -> list[dict]:
    """Return the result for each clip, kept or dropped."""
    result = stage(clips(*rows))
    assert result.kept.schema == CLIP_SCHEMA and result.dropped.schema == DROPPED_SCHEMA
    found = {row["id"]: row | {"ratio": row["speaker_ratio"], "reason": None} for row in result.kept.to_pylist()}
    found |= {row["id"]: row | {"ratio": row["value"]} for row in result.dropped.to_pylist()}
    return [found[f"v#{i}"] for i in range(len(rows))]


@pytest.mark.parametrize("model", ["light.model", "lr.model"])
def test_both_networks_score_clips_by_their_faces(folder, model):
    stage = make(folder, model, max_ratio=1.0)
    two, none, half = scored(
        stage, (folder / "two.mkv", 0.0, 0.6), (folder / "none.mkv", 0.0, 0.6), (folder / "two.mkv", 0.2, 0.5)
    )
    assert none["ratio"] == 0 and none["faces"] == []
    assert 0 <= two["ratio"] <= 1 and two["ratio"] * 15 == pytest.approx(round(two["ratio"] * 15), abs=1e-9)
    places = {(round(face["left"] * 320), round(face["top"] * 192)) for face in two["faces"]}
    assert places == {(20, 84), (204, 84)}
    assert [round(face["time_s"], 2) for face in two["faces"]] == [0.0, 0.0, 0.48, 0.48]
    assert half["faces"][0]["time_s"] == pytest.approx(0.2) and half["faces"][-1]["time_s"] < 0.5


def test_what_cannot_be_judged_is_dropped_and_the_rest_goes_on(folder):
    stage = make(folder, max_ratio=1.0)
    rows = scored(
        stage,
        (folder / "gone.mkv", 0.0, 1.0),
        (folder / "none.mkv", 0.0, 1.0),
        (folder / "mute.mkv", 0.0, 1.0),
        (folder / "broken.mkv", 0.0, 1.0),
        (folder / "none.mkv", 50.0, 60.0),
        (folder / "none.mkv", 1.0, 1.0),
        (folder / "silent.mkv", 0.0, 0.4),
    )
    reasons = [row["reason"] for row in rows]
    assert reasons == ["error", None, "no_audio", "error", "error", "error", None]
    assert all(row["value"] is None and row["detail"] for row in rows if row["reason"])
    assert "gone.mkv" in rows[0]["detail"] and "no audio stream" in rows[2]["detail"]
    assert rows[4]["start_s"] == 50.0
    assert np.isfinite([face["score"] for face in rows[6]["faces"]]).all()
    empty = stage(clips())
    assert len(empty.kept) == len(empty.dropped) == 0 and empty.kept.schema == CLIP_SCHEMA


def test_only_a_failing_device_ends_the_run(folder):
    """A network that fails, by a forward hook: as PyTorch does if memory runs out, and by a defect."""
    stage = make(folder, max_ratio=1.0)
    stage.open()
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    def fail(*_):
        raise error

    stage.loaded.network.register_forward_pre_hook(fail)
    with pytest.raises(DeviceError, match="can't allocate memory.* lower active_speaker.batch"):
        scored(stage, (folder / "two.mkv", 0.0, 0.4))
    error = RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
    with pytest.raises(RuntimeError, match="must match") as raised:  # the run drops the clip
        scored(stage, (folder / "two.mkv", 0.0, 0.4))
    assert raised.value is error


def test_small_faces_do_not_count_where_that_is_asked(folder):
    for least, n_faces in ((95, 2), (97, 0)):
        [row] = scored(make(folder, max_ratio=1.0, min_face_px=least), (folder / "two.mkv", 0.0, 0.4))
        assert len(row["faces"]) == n_faces


def test_windows_are_whole_and_far_apart(folder):
    stage = make(folder, max_ratio=1.0, window_s=0.4, every_s=0.8)
    [row] = scored(stage, (folder / "two.mkv", 0.1, 1.9))
    assert {round(face["time_s"], 2) for face in row["faces"]} == {0.1, 0.9}
    assert row["ratio"] * 20 == pytest.approx(round(row["ratio"] * 20), abs=1e-9)  # of both windows together


def test_scores_do_not_depend_on_what_is_scored_beside(folder):
    rows = [(folder / "two.mkv", 0.0, 0.4), (folder / "silent.mkv", 0.0, 0.4), (folder / "two.mkv", 0.5, 0.9)]
    together = scored(make(folder, max_ratio=1.0, batch=2), *rows)
    again = pickle.loads(pickle.dumps(make(folder, max_ratio=1.0, batch=1, decoders=1)))
    for row, expected in zip(rows, together):
        [alone] = scored(again, row)
        assert alone["ratio"] == expected["ratio"]
        scores = [[face["score"] for face in found["faces"]] for found in (alone, expected)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_the_ratio_is_compared_as_it_is_or_as_the_reference_rounds_it(folder):
    exact, rounded = make(folder), make(folder, round_ratio=True)
    assert [exact.passes(ratio) for ratio in (0.0, 0.05, 0.0501, 0.054)] == [True, True, False, False]
    assert [rounded.passes(ratio) for ratio in (0.05, 0.0549, 0.0551)] == [True, True, False]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"model": ""}, "active_speaker.model is not given"),
        ({"detector": ""}, "active_speaker.detector is not given"),
        ({"max_ratio": 5}, "max_ratio is 5"),
        ({"window_s": 0.0}, "window_s is 0"),
        ({"every_s": 3.0}, "every_s is 3.0: expected at least window_s"),
        ({"min_face_px": -1.0}, "min_face_px is -1"),
        ({"side_px": 3}, "side_px is 3"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_options_that_make_no_sense_say_so(folder, options, text):
    given = {"model": str(folder / "light.model"), "detector": str(folder / "yunet.onnx")}
    with pytest.raises(ValueError, match=text):
        make_stage("active_speaker", given | options)


def test_a_missing_model_is_said_before_any_clip(folder):
    with pytest.raises(ValueError, match="nowhere.*does not exist"):
        make(folder, "nowhere.model")(clips((folder / "gone.mkv", 0.0, 1.0)))


@needs_light_asd
class TestPublishedWeights:
    """A still face never speaks; a face whose mouth moves with the sound always does."""

    @pytest.fixture
    def stage(self, folder):
        return ActiveSpeaker(str(LIGHT_ASD), str(folder / "yunet.onnx"), device="cpu")

    def test_a_mouth_that_moves_speaks_and_a_still_one_does_not(self, stage, folder):
        write_talking_video(folder / "still.mkv", syllables(2), [Face()], 2)
        still, two = scored(stage, (folder / "still.mkv", 0.0, 1.4), (folder / "two.mkv", 0.0, 1.4))
        assert still["ratio"] == 0.0 and still["reason"] is None
        assert two["ratio"] == 1.0 and two["reason"] == "active_speaker"
        assert all((face["score"] > 0) == (face["left"] < 0.3) for face in two["faces"])

    def test_a_face_that_leaves_speaks_while_it_is_there(self, stage, folder):
        faces = [Face(is_moved=True, to_s=1.0)]
        write_talking_video(folder / "leaves.mkv", syllables(2), faces, 2)
        [row] = scored(stage, (folder / "leaves.mkv", 0.0, 2.0))
        assert row["ratio"] == pytest.approx(0.5, abs=0.06)
        assert max(face["time_s"] for face in row["faces"]) < 1.0

    def test_a_cut_parts_what_is_seen(self, stage, folder):
        """Then another, still face is on screen at another place."""
        faces = [Face(**LEFT, is_moved=True, to_s=1.0), Face(**RIGHT, from_s=1.0)]
        write_talking_video(folder / "cut.mkv", syllables(2), faces, 2)
        [row] = scored(stage, (folder / "cut.mkv", 0.0, 2.0))
        assert row["ratio"] == pytest.approx(0.5, abs=0.1)
        assert all((face["left"] < 0.3) == (face["time_s"] < 1.0) for face in row["faces"])

    def test_pictures_and_sound_are_on_one_clock(self, stage, folder):
        """A sound that starts late moves the mouth late; before that, the face does not speak."""
        write_talking_video(folder / "late.mkv", syllables(1.2), [Face(is_moved=True)], 2.4, sound_from_s=1.2)
        before, after = scored(stage, (folder / "late.mkv", 0.0, 0.8), (folder / "late.mkv", 1.4, 2.2))
        assert before["ratio"] == 0.0 and after["ratio"] == 1.0

    def test_music_over_a_still_face_is_no_speech(self, stage, folder):
        t = np.arange(RATE_HZ) / RATE_HZ
        chord = sum(np.sin(2 * np.pi * hz * t) for hz in (262, 330, 392)) * 4000
        write_talking_video(folder / "music.mkv", chord.astype(np.int16), [Face()], 1)
        [row] = scored(stage, (folder / "music.mkv", 0.0, 1.0))
        assert row["ratio"] == 0.0
