"""Samples of every backbone: narrated clips and conversations are encoded, and read back by inspection."""

import pytest
import torch
from backbones import BACKBONES, write_published
from media import write_video
from PIL import Image

from livecc_hf.checkpoints.loading import load_processor
from livecc_hf.data.formats.chat import Conversation
from livecc_hf.data.formats.conversations import NarratedVideo
from livecc_hf.data.samples.chat import count_chat_tokens, encode_chat
from livecc_hf.data.samples.narration import count_narration_tokens, encode_narration
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.training.inspection.reading import read_messages, sample_errors, turn_of

SIDE_PX = {"qwen2_vl": 56, "qwen2_5_vl": 56, "qwen3_vl": 64}


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request, tmp_path_factory):
    """The name and processor of a backbone."""
    return request.param, load_processor(write_published(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture
def options(backbone):
    pixels = SIDE_PX[backbone[0]] ** 2
    return EncodeOptions(min_pixels=pixels, max_pixels=pixels, use_context=False)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", n_frames=20, fps=2, size_px=(64, 64))


def test_a_narrated_clip_is_counted_encoded_and_read_back(backbone, options, video):
    name, processor = backbone
    words = [(n, n + 0.5, f"word{n}") for n in range(8)]
    clip = NarratedVideo(str(video), words)
    sample = encode_narration(clip, processor, options)
    assert sample.n_tokens == count_narration_tokens(clip, processor, options)
    assert sample_errors(sample, processor) == []
    messages = read_messages(sample, processor)
    turns = [turn for at in range(len(messages)) if (turn := turn_of(messages, at, processor))]
    assert [(turn.start_s, turn.end_s) for turn in turns[:2]] == [(0.0, 3.0), (3.0, 4.0)]
    assert [turn.media.n_frames for turn in turns[:2]] == [6, 2]
    assert turns[0].media.n_tokens == 3 * turns[1].media.n_tokens
    text = processor.tokenizer.decode(sample.model_inputs["input_ids"])
    assert ("<0.2 seconds><|vision_start|>" in text) == (name == "qwen3_vl")
    assert text.startswith("<|im_start|>user" if name == "qwen3_vl" else "<|im_start|>system")


def test_a_conversation_is_what_the_processor_makes_of_it(backbone, options, video, tmp_path):
    """A training sample has the same text as a prompt at inference."""
    _, processor = backbone
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    content = [{"type": "image", "image": str(tmp_path / "a.png")}, {"type": "video", "video": str(video)}]
    question = {"role": "user", "content": [*content, {"type": "text", "text": "What is it?"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A square."}]}
    conversation = Conversation([question, answer])
    sample = encode_chat(conversation, processor, options)
    assert sample.n_tokens == count_chat_tokens(conversation, processor, options)
    assert sample_errors(sample, processor) == []
    text = processor.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    pixels = options.max_pixels
    size = {"shortest_edge": pixels, "longest_edge": pixels}
    asked = processor(
        text=[text],
        images=[str(tmp_path / "a.png")],
        videos=[str(video)],
        videos_kwargs={"size": size},
        return_tensors="pt",
    )
    ids = sample.model_inputs["input_ids"]
    n_images = int(sample.model_inputs["image_grid_thw"].prod() // 4), int(asked["image_grid_thw"].prod() // 4)
    if n_images[0] == n_images[1]:
        assert ids[: asked["input_ids"].shape[1]].tolist() == asked["input_ids"][0].tolist()
    assert torch.equal(sample.model_inputs["video_grid_thw"], asked["video_grid_thw"])
