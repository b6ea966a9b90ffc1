"""Questions about one clip share its prefill on every backbone."""

import pytest
import torch
from backbones import BACKBONES, write_published

from livecc_hf.checkpoints.loading import load_model, load_processor
from livecc_hf.evaluation.running.shared_vision import SharedVision, candidate_ids

QUESTION = "Which colour?\nA. Red.\nB. Blue."


@pytest.mark.parametrize("name", BACKBONES)
def test_a_question_is_answered_as_by_a_processors_call(name, tmp_path, load_frames):
    folder = write_published(name, tmp_path / name)
    model, processor = load_model(folder, position_scheme="mrope")[0], load_processor(folder)
    side_px = 2 * processor.video_processor.patch_size
    frames = load_frames("live_cc")[:6, :, : 2 * side_px, : 3 * side_px]
    times_s = [0.75 * number for number in range(6)]  # pairs of frames 1.5 s apart
    conversation = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
    prompt = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    metadata = {"fps": 4 / 3, "frames_indices": list(range(6)), "total_num_frames": 6}
    options = {"do_sample_frames": False, "do_resize": False, "video_metadata": [metadata]}
    inputs = processor(text=[f"{prompt}Answer:"], videos=[frames], return_tensors="pt", **options)
    with torch.no_grad():
        alone = model(**inputs).logits[0, -1]
    vision = SharedVision(model, processor, frames, times_s=times_s)
    expected = torch.softmax(alone[candidate_ids(processor.tokenizer, "AB", ": ")].double(), 0)
    for _ in range(2):  # with a fresh prefill, and with the cache that the first question left
        choice = vision.choose(QUESTION, "Answer:", "AB", ": ")
        assert list(choice.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert vision.n_tokens < inputs["input_ids"].shape[1]
