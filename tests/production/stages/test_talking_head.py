"""The talking-head stage runs for real, on a Qwen2-VL with random weights and synthetic videos."""

import pytest

pytest.importorskip("av")
pytest.importorskip("pyarrow")

import numpy as np
import torch
from clip_tables import clips
from media import number_of, write_video

from livecc_hf.production.schemas import CLIP_SCHEMA, DROPPED_SCHEMA
from livecc_hf.production.stages import talking_head
from livecc_hf.production.stages.talking_head import TalkingHead, clip_frames

LENGTH_S = 48


@pytest.fixture(scope="module")
def stage(published_checkpoint):
    stage = TalkingHead(model=str(published_checkpoint), device="cpu", max_probability=1.0, clips_per_batch=2)
    stage.open()
    return stage


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Frame n of this video appears at n / 4 s and shows its number."""
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    return write_video(path, n_frames=LENGTH_S * 4, fps=4, size_px=(320, 180), codec_options={"g": "8"})


@pytest.mark.parametrize("seek_from_s", [0.1, 100.0], ids=["seeking", "decoding"])
@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 48.0), (8.0, 24.0), (20.3, 39.9)])
def test_frames_are_evenly_spaced(video, monkeypatch, seek_from_s, start_s, end_s):
    monkeypatch.setattr(talking_head, "_SEEK_FROM_S", seek_from_s)
    frames = clip_frames(str(video), start_s, end_s)
    assert frames.shape == (8, 3, 180, 320) and frames.dtype == torch.uint8
    times_s = start_s + np.arange(8) * (end_s - start_s) / 8
    # The first frame whose display ends at or after the time: one that starts a quarter of a second before it at most.
    expected = np.maximum(np.ceil(times_s * 4 - 1e-6) - 1, 0)
    assert [number_of(frame) for frame in frames] == expected.tolist()


def test_scores_are_those_of_one_clip_at_a_time(stage, video, published_checkpoint):
    spans = [(0.0, 30.0), (2.0, 40.0), (10.0, 18.0), (5.0, 47.0), (30.0, 48.0)]
    result = stage(clips(*[(video, *span) for span in spans]))
    assert result.kept.schema == CLIP_SCHEMA and len(result.dropped) == 0
    scores = result.kept["p_talking_head"].to_pylist()
    expected = [stage.probabilities([clip_frames(str(video), *span)])[0] for span in spans]
    assert scores == pytest.approx(expected, abs=1e-6)
    assert len(set(scores)) == len(spans) and all(0 < score < 1 for score in scores)


def test_the_score_is_the_first_tokens_probability_of_yes(stage, video, published_checkpoint):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(published_checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(published_checkpoint, dtype=torch.float32).eval()
    frames = clip_frames(str(video), 0.0, 30.0)
    content = [{"type": "image", "image": frame} for frame in frames]
    content.append({"type": "text", "text": talking_head._QUESTION})
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    step = model.generate(**inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True)
    yes_id = processor.tokenizer.encode("Yes", add_special_tokens=False)[0]
    assert stage.probabilities([frames])[0] == pytest.approx(step.logits[0][0].softmax(-1)[yes_id].item(), rel=1e-4)


def test_the_threshold_drops_and_says_the_score(stage, video, published_checkpoint):
    batch = clips((video, 0.0, 30.0), (video, 10.0, 18.0))
    low, high = sorted(stage(batch).kept["p_talking_head"].to_pylist())
    between = TalkingHead(model=str(published_checkpoint), device="cpu", max_probability=(low + high) / 2)
    result = between(batch)
    assert result.kept["p_talking_head"].to_pylist() == pytest.approx([low], abs=1e-6)
    (row,) = result.dropped.to_pylist()
    assert row["reason"] == "talking_head" and row["value"] == pytest.approx(high, abs=1e-6)


def test_broken_videos_are_dropped_and_the_rest_goes_on(stage, video, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all" * 50)
    rows = [(tmp_path / "missing.mp4", 0.0, 30.0), (video, 0.0, 30.0), (tmp_path / "broken.mp4", 0.0, 30.0)]
    result = stage(clips(*rows, (video, 100.0, 130.0), (video, 40.0, 60.0), (video, 20.0, 70.0), (video, 9.0, 9.0)))
    assert result.kept["id"].to_pylist() == ["v#1"] and result.dropped.schema == DROPPED_SCHEMA
    dropped = result.dropped.to_pylist()
    assert [row["reason"] for row in dropped] == ["error"] * 6
    for row, words in zip(
        dropped, ("missing.mp4", "broken.mp4", "past the end", "ends before", "past the end", "9.0 to")
    ):
        assert words in row["detail"], row


def test_an_empty_batch_is_fine(stage):
    result = stage(clips())
    assert len(result.kept) == len(result.dropped) == 0 and result.kept.schema == CLIP_SCHEMA


def test_open_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        TalkingHead(model=str(tmp_path / "nowhere")).open()
    with pytest.raises(ValueError, match="cannot be loaded"):
        TalkingHead(model=str(tmp_path), device="cpu").open()
    with pytest.raises(ValueError, match="max_probability is 30"):
        TalkingHead(max_probability=30)


@pytest.mark.gpu
def test_scores_on_a_gpu_are_those_of_a_cpu(stage, video, published_checkpoint):
    batch = clips((video, 0.0, 30.0), (video, 10.0, 18.0), (video, 2.0, 40.0))
    options = {"model": str(published_checkpoint), "max_probability": 1.0, "clips_per_batch": 2}
    scores = TalkingHead(**options, device="cuda", dtype="float32")(batch).kept["p_talking_head"].to_pylist()
    assert scores == pytest.approx(stage(batch).kept["p_talking_head"].to_pylist(), abs=1e-4)
    TalkingHead(**options, device="cuda")(batch)  # in bfloat16
