"""The parts of the stage active_speaker: networks, sound features, face detectors, tracks, windows."""

import numpy as np
import pytest
import torch
from face_detectors import MARK_RGB, ScrfdLayout, YuNetLayout, write_detector
from real_weights import LIGHT_ASD, needs_light_asd
from safetensors.torch import save_file

from livecc_hf.production.backends.speech_audio import SPEECH_RATE_HZ, SpeechAudio
from livecc_hf.production.stages.active_speaker.faces import load_detector
from livecc_hf.production.stages.active_speaker.mfcc import mfcc
from livecc_hf.production.stages.active_speaker.networks import LightAsd, LrAsd
from livecc_hf.production.stages.active_speaker.scoring import ScoredTrack, speaking_frames
from livecc_hf.production.stages.active_speaker.tracks import cut_out, link_faces
from livecc_hf.production.stages.active_speaker.weights import load_network
from livecc_hf.production.stages.active_speaker.windows import clip_sound, windows_of

# Of the input below, by python_speech_features 0.6: rows 0, 7 and 13.
MFCC_ROWS = [
    [16.772, -11.934, 11.297, 9.596, 9.51, 6.579, -6.242, -31.368, -39.482, -4.726, 13.031, -33.161, -41.027],
    [17.986, -3.287, 18.383, 14.64, 12.859, 5.127, -8.647, -28.728, -36.878, -8.092, 5.378, -36.362, -40.926],
    [16.446, -13.403, 7.455, 6.898, 9.546, 5.248, -9.085, -31.262, -39.308, -8.203, 9.333, -32.21, -40.911],
]
# Of the input below, by Light-ASD with the weights of TalkSet, written out in torch.nn.functional.
LOGITS = [-0.8020, -0.7555, -0.5780, -0.5711, -0.5813, -0.5399, -0.4809, -0.1573]


def recorded_input() -> tuple[torch.Tensor, torch.Tensor]:
    places = torch.arange(8 * 112 * 112).view(1, 8, 112, 112)
    faces = (places * 2654435761 % 2**32 >> 24).to(torch.uint8)
    return faces, ((torch.arange(32 * 13) * 7919 % 2001) / 100 - 10).view(1, 32, 13)


class TestNetworks:
    @needs_light_asd
    def test_published_weights_give_the_recorded_logits(self, tmp_path):
        network = load_network(str(LIGHT_ASD))
        assert isinstance(network, LightAsd)
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        for copy in (network, load_network(str(tmp_path))):
            with torch.inference_mode():
                assert copy(*recorded_input())[0].tolist() == pytest.approx(LOGITS, abs=1e-3)

    @pytest.mark.parametrize(
        ("kind", "size", "names"),
        [
            (
                LightAsd,
                1_021_120,
                {
                    "model.visualEncoder.block1.s_3.weight": (32, 1, 1, 3, 3),
                    "model.visualEncoder.block3.bn_t_5.running_var": (128,),
                    "model.audioEncoder.block2.m_5.weight": (64, 32, 5, 1),
                    "model.audioEncoder.block3.last.weight": (128, 128, 1, 1),
                    "model.GRU.gru_backward.weight_hh_l0": (384, 128),
                    "lossAV.FC.weight": (2, 128),
                },
            ),
            (
                LrAsd,
                836_640,
                {
                    "model.visualEncoder.block1.s_1.weight": (16, 1, 1, 5, 5),
                    "model.visualEncoder.block2.s_norm_2.weight": (64,),
                    "model.visualEncoder.block3.t_2.weight": (128, 128, 3, 1, 1),
                    "model.audioEncoder.block2.m_1.weight": (32, 32, 5, 1),
                    "model.fusion.attention.weight": (256, 256, 1),
                    "model.detector.gru_forward.weight_ih_l0": (192, 256),
                    "model.detector.attention.bn.running_mean": (128,),
                    "lossAV.FC.bias": (2,),
                },
            ),
        ],
    )
    def test_weights_have_the_published_names(self, kind, size, names, tmp_path):
        """Random weights survive a file, also with the training head that the published files have."""
        torch.manual_seed(3)
        network = kind().eval()
        state = network.state_dict()
        assert {name: tuple(state[name].shape) for name in names} == names
        n_in_head = 258
        assert sum(value.numel() for value in network.parameters()) - n_in_head == size
        extra = {"lossV.FC.weight": torch.zeros(2, 128), "lossV.FC.bias": torch.zeros(2)}
        torch.save(state | extra, tmp_path / "some.model")
        loaded = load_network(str(tmp_path / "some.model"))
        assert isinstance(loaded, kind)
        with torch.inference_mode():
            found = loaded(*recorded_input())
            assert found.shape == (1, 8) and torch.equal(found, network(*recorded_input()))

    @pytest.mark.parametrize("kind", [LightAsd, LrAsd])
    def test_faces_of_one_batch_do_not_meet(self, kind):
        torch.manual_seed(1)
        network, (faces, sound) = kind().eval(), recorded_input()
        with torch.inference_mode():
            both = network(torch.cat([faces, 255 - faces]), torch.cat([sound, -sound]))
            alone = [network(faces, sound), network(255 - faces, -sound)]
        assert torch.allclose(both, torch.cat(alone), atol=1e-5)

    def test_what_is_no_weights_says_so(self, tmp_path):
        cases = {"empty": "holds no file", "two": "a.model, b.model: name one", "other": "does not hold the weights"}
        for name in cases:
            (tmp_path / name).mkdir()
        for name in "ab":
            torch.save({}, tmp_path / f"two/{name}.model")
        torch.save({"model.fc.weight": torch.zeros(2)}, tmp_path / "other/a.model")
        for name, text in cases.items():
            with pytest.raises(ValueError, match=text):
                load_network(str(tmp_path / name))
        (tmp_path / "damaged.model").write_bytes(b"no weights")
        torch.save(["a list"], tmp_path / "list.model")
        for name, text in {
            "damaged": "cannot be read",
            "list": "does not hold weights by name",
            "gone": "does not exist",
        }.items():
            with pytest.raises(ValueError, match=text):
                load_network(str(tmp_path / f"{name}.model"))
        (tmp_path / "weights.bin").touch()
        with pytest.raises(ValueError, match=r"ending in \.safetensors or \.model"):
            load_network(str(tmp_path / "weights.bin"))
        with pytest.raises(ValueError, match="me/weights cannot be fetched"):
            load_network("me/weights")

    def test_a_file_that_would_run_code_is_refused(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (print, ("this ran",))

        torch.save({"a": Bomb()}, tmp_path / "bomb.model")
        with pytest.raises(ValueError, match="cannot be read as weights"):
            load_network(str(tmp_path / "bomb.model"))


class TestSoundFeatures:
    def test_they_are_the_recorded_ones(self):
        n = np.arange(2400)
        sound = 8000 * np.sin(2 * np.pi * 220 * n / 16000) * np.sin(np.pi * n / 2400) + (n * 7919 % 1000 - 500)
        rows = mfcc(sound.astype(np.int16))
        assert rows.shape == (14, 13)
        np.testing.assert_allclose(rows[[0, 7, 13]], MFCC_ROWS, atol=2e-3)

    def test_a_part_is_that_part_of_the_whole(self):
        sound = np.random.default_rng(0).normal(size=8000) * 3000
        np.testing.assert_allclose(mfcc(sound, 10, 20), mfcc(sound)[10:30], atol=1e-5)

    def test_silence_and_the_time_past_the_end_are_finite(self):
        assert np.isfinite(mfcc(np.zeros(4000), 0, 100)).all()
        np.testing.assert_array_equal(mfcc(np.ones(1000) * 500, 50, 4), mfcc(np.zeros(10), 0, 4))


@pytest.mark.parametrize("layout", [YuNetLayout, ScrfdLayout])
@pytest.mark.parametrize("size", [None, (192, 320), (96, 160)], ids=["any size", "its size", "half"])
def test_onnx_detectors_find_faces_where_they_are(layout, size, tmp_path):
    pytest.importorskip("onnx")
    detector = load_detector(str(write_detector(tmp_path / "d.onnx", layout(), size)), "cpu")
    frames = np.full((3, 180, 320, 3), 90, np.uint8)
    scale = 2 if size == (96, 160) else 1  # marks of 8 pixels in what the detector sees
    cell = 8 * scale
    frames[0, 16 : 16 + cell, 160 : 160 + cell] = MARK_RGB
    frames[2, 16 : 16 + cell, 32 : 32 + cell] = frames[2, 16 : 16 + cell, 256 : 256 + cell] = MARK_RGB
    found = detector(frames)
    assert [len(boxes) for boxes in found] == [1, 0, 2]
    left, top = 160 + cell / 2 - 48 * scale, 16 + cell / 2 + 56 * scale - 48 * scale
    expected = [max(left, 0), top, min(left + 96 * scale, 320), min(top + 96 * scale, 180)]
    np.testing.assert_allclose(found[0][0], expected, atol=0.01)
    assert (found[2][:, 0] >= 0).all() and (found[2][:, 2] <= 320).all()  # what lies outside is cut off


def test_detectors_of_transformers_find_faces(tmp_path):
    """A YOLOS whose weights detect a face in the middle of any picture."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[32, 48],
        patch_size=16,
        num_detection_tokens=3,
        id2label={0: "cat", 1: "Human face"},
    )
    model = YolosForObjectDetection(config)
    with torch.no_grad():
        for head, bias in ((model.class_labels_classifier, [0.0, 9.0, 0.0]), (model.bbox_predictor, [0.0, 0, -1, -1])):
            last = head.layers[-1]
            last.weight.zero_()
            last.bias.copy_(torch.tensor(bias))
    model.save_pretrained(tmp_path)
    YolosImageProcessor(size={"height": 32, "width": 48}).save_pretrained(tmp_path)
    found = load_detector(str(tmp_path), "cpu")(np.zeros((2, 100, 200, 3), np.uint8))
    half = 1 / (1 + np.e) / 2
    expected = [[200 * (0.5 - half), 100 * (0.5 - half), 200 * (0.5 + half), 100 * (0.5 + half)]]
    assert len(found) == 2
    np.testing.assert_allclose(found[0], expected, atol=0.01)  # three of them are one
    config.id2label = {0: "cat", 1: "dog"}
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="detects cat, dog: expected a detector with a label for faces"):
        load_detector(str(tmp_path), "cpu")


def test_what_is_no_detector_says_so(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    for name, text in {"a": "has the outputs y", "damaged": "cannot be loaded", "gone": "does not exist"}.items():
        with pytest.raises(ValueError, match=text):
            load_detector(str(tmp_path / f"{name}.onnx"), "cpu")
    with pytest.raises(ValueError, match=r"me/faces:yunet\.onnx cannot be fetched"):
        load_detector("me/faces:yunet.onnx", "cpu")


def boxes(*rows) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


class TestTracks:
    def test_a_face_is_followed_while_it_is_there(self):
        drifting = [boxes((10 + i, 10, 50 + i, 50)) for i in range(8)]
        [track] = link_faces(drifting, 0.7, 5)
        assert (track.first, len(track)) == (0, 8)
        gap = [*drifting[:6], boxes(), *drifting[:6]]
        assert [(t.first, len(t)) for t in link_faces(gap, 0.7, 5)] == [(0, 6), (7, 6)]

    def test_a_cut_ends_a_track_and_short_ones_do_not_count(self):
        faces = [boxes((10, 10, 50, 50))] * 6 + [boxes((100, 10, 140, 50))] * 5 + [boxes((10, 10, 50, 50))] * 4
        assert [(t.first, len(t)) for t in link_faces(faces, 0.7, 5)] == [(0, 6), (6, 5)]

    def test_two_faces_stay_apart_in_whatever_order_they_are_found(self):
        left, right = (10, 10, 50, 50), (48, 10, 88, 50)
        faces = [boxes(left, right) if i % 2 else boxes(right, left) for i in range(6)]
        found = link_faces(faces, 0.7, 5)
        assert [len(t) for t in found] == [6, 6]
        assert [{tuple(box) for box in t.boxes} for t in found] == [{left}, {right}]

    def test_a_face_is_cut_out_gray_and_stretched(self):
        frames = np.zeros((3, 60, 80, 3), np.uint8)
        frames[:, 10:30, 20:70] = (0, 200, 0)
        track = link_faces([boxes((20, 10, 70, 30))] * 3, 0.7, 1)[0]
        found = cut_out(frames, track)
        assert found.shape == (3, 112, 112)
        np.testing.assert_allclose(found, 200 * 0.587, rtol=1e-5)


class TestWindows:
    def test_they_begin_as_often_as_asked_and_are_whole(self):
        assert windows_of(10, 250, 6, 30) == [(30.0 * i, 150) for i in range(8)]
        assert windows_of(0, 35.9, 6, 30) == [(0.0, 150)]
        assert windows_of(0, 36, 6, 30) == [(0.0, 150), (30.0, 150)]

    def test_a_short_clip_is_one_window(self):
        assert windows_of(3.0, 5.0, 6, 30) == [(0.0, 50)]
        with pytest.raises(ValueError, match="expected at least 1/25 s"):
            windows_of(3.0, 3.0, 6, 30)

    def test_any_face_that_speaks_counts_and_a_frame_counts_once(self):
        one, two = np.full(4, -1.0), np.full(6, 1.0)
        tracks = [ScoredTrack(0, np.zeros((4, 4)), one), ScoredTrack(2, np.zeros((6, 4)), two)]
        assert speaking_frames(tracks, 10).tolist() == [False] * 2 + [True] * 6 + [False] * 2
        tracks.append(ScoredTrack(4, np.zeros((2, 4)), np.ones(2)))
        assert speaking_frames(tracks, 10).sum() == 6

    def test_the_sound_of_a_clip_is_that_of_its_time(self):
        """It starts late on a clock that does not start at 0, and a part of a long silence was left out."""
        rate = SPEECH_RATE_HZ
        samples = np.concatenate([np.full(rate, 0.25), np.full(rate, 0.5)]).astype(np.float32)
        audio = SpeechAudio(samples, start_s=102.0, clock_start_s=100.0, cuts=((rate, 50.0),))
        sound = clip_sound(audio, 1.0, 54.0)  # from 2 to 3 s, and from 53 to 54 s
        assert len(sound) == 53 * rate
        assert not sound[:rate].any() and not sound[2 * rate : 52 * rate].any()
        np.testing.assert_array_equal(sound[rate : 2 * rate], np.trunc(32767 / 2))
        np.testing.assert_array_equal(sound[52 * rate :], 32767)

    def test_silence_is_not_divided_by(self):
        audio = SpeechAudio(np.zeros(100, np.float32), 0.0)
        assert not clip_sound(audio, 0.0, 1.0).any()
