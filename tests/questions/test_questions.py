"""`answer` and `livecc ask` give Qwen2-VL's answers about the same frames."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from backbones import BACKBONES, write_published
from media import write_audio, write_video
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

import livecc_hf
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.cli.main import main
from livecc_hf.modeling.video_loading import LoadOptions
from livecc_hf.questions.asking import answer, is_picture_file
from livecc_hf.video.reader import iter_frames

QUESTION = "What happens in it?"
GREEDY = {"do_sample": False, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def stock(published_checkpoint):
    """Qwen2-VL's own classes on the same weights."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(published_checkpoint).eval()
    return model, Qwen2VLProcessor.from_pretrained(published_checkpoint)


@pytest.fixture(scope="module")
def ours(published_checkpoint):
    return load_model_and_processor(published_checkpoint, device="cpu", position_scheme="mrope")[:2]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "v.mp4", n_frames=40, fps=10, size_px=(320, 240))
    pixels = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def said_by_stock(stock, part, question, **processor_kwargs):
    model, processor = stock
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [part, {"type": "text", "text": question}]}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
        processor_kwargs=processor_kwargs,
    )
    with torch.no_grad():
        said = model.generate(**inputs, **GREEDY)
    return processor.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("question", [QUESTION, "Who?"])
def test_answers_about_a_video_equal_stock_qwen2_vl(stock, ours, media, question):
    frames = torch.stack([item.frame for item in iter_frames(media / "v.mp4")])
    assert len(frames) == 8
    size = {"shortest_edge": 100 * 28 * 28, "longest_edge": 768 * 28 * 28}
    expected = said_by_stock(stock, {"type": "video", "video": frames}, question, size=size, do_sample_frames=False)
    assert expected
    for shown in (str(media / "v.mp4"), media / "v.mp4", frames, frames.numpy(), list(frames)):
        assert answer(*ours, shown, question, **GREEDY) == expected
    few = LoadOptions(start_s=1, end_s=3)
    expected = said_by_stock(
        stock, {"type": "video", "video": frames[2:6]}, question, size=size, do_sample_frames=False
    )
    assert answer(*ours, media / "v.mp4", question, few, **GREEDY) == expected


def test_answers_about_an_image_equal_stock_qwen2_vl(stock, ours, media):
    expected = said_by_stock(stock, {"type": "image", "image": str(media / "a.png")}, QUESTION)
    assert expected
    for shown in (str(media / "a.png"), media / "a.png", Image.open(media / "a.png")):
        assert answer(*ours, shown, QUESTION, **GREEDY) == expected
    small = {"shortest_edge": 3136, "longest_edge": 6272}
    expected = said_by_stock(stock, {"type": "image", "image": str(media / "a.png")}, QUESTION, size=small)
    reading = LoadOptions(min_pixels=3136, max_pixels=6272)
    assert answer(*ours, media / "a.png", QUESTION, reading, **GREEDY) == expected


def test_the_command_equals_the_function(published_checkpoint, ours, media, capsys):
    options = ["--model", str(published_checkpoint), "--device", "cpu", "--position-scheme", "mrope", "--greedy"]
    options += ["--max-new-tokens", "12"]
    part = ["--start", "1", "--end", "0:03", "--max-pixels", "90000"]
    for name, more, reading in (
        ("v.mp4", [], None),
        ("v.mp4", part, LoadOptions(max_pixels=90000, start_s=1, end_s=3)),
        ("v.mp4", ["--max-frames", "4"], LoadOptions(max_frames=4)),
        ("a.png", [], None),
    ):
        assert main(["ask", str(media / name), QUESTION, *options, *more]) == 0
        shown = capsys.readouterr()
        assert shown.out == answer(*ours, media / name, QUESTION, reading, **GREEDY) + "\n"
        assert "model:" in shown.err


def test_the_bundled_model_answers(media, capsys):
    assert main(["ask", str(media / "v.mp4"), "What happens?", "--greedy", "--max-new-tokens", "8"]) == 0
    out = capsys.readouterr().out.strip()
    assert not out.endswith("...")


def test_invalid_questions_give_a_one_line_error(media, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("no video")
    write_audio(tmp_path / "sound.m4a")
    video, image = str(media / "v.mp4"), str(media / "a.png")
    for arguments, message in (
        ([str(tmp_path / "none.mp4"), "What?"], "no such file"),
        ([str(tmp_path), "What?"], "is a folder"),
        (["ftp://me:geheim@host/a.mp4", "What?"], "ftp://***@host/a.mp4: expected a file, or a file:// or http(s)://"),
        (["rtsp://host/a", "What?"], "rtsp://host/a: expected a file, or a file:// or http(s)://"),
        (["camera:0", "What?"], "camera:0: expected a file, or a file:// or http(s)://"),
        (["-", "What?"], "-: expected a file, or a file:// or http(s)://"),
        (["http://me:geheim@host/a.mp4?k=geheim", "What?"], "http://host/a.mp4: a URL with a user name or password"),
        ([video, "What?", "--device", "gpu"], "device 'gpu' cannot be used: expected cpu"),
        ([str(tmp_path / "text.txt"), "What?"], "text.txt is"),
        ([str(tmp_path / "sound.m4a"), "What?"], "no video stream"),
        ([video, "  "], "expected some text"),
        ([video, "What is <|im_end|>?"], "special token"),
        ([image, "What?", "--start", "1"], "--start: for videos only"),
        ([image, "What?", "--max-frames", "4"], "--max-frames: for videos only"),
        ([video, "What?", "--start", "3", "--end", "2"], "--end 2 is not after the start"),
        ([video, "What?", "--greedy", "--temperature", "1"], "--temperature: not with --greedy"),
        ([video, "What?", "--fps", "0"], "--fps 0.0: expected a rate above 0"),
        ([video, "What?", "--max-frames", "0"], "--max-frames 0: expected a whole number"),
        ([video, "What?", "--max-new-tokens", "0"], "--max-new-tokens 0: expected"),
        ([video, "What?", "--seed", str(2**70)], f"--seed {2**70}: expected"),
        ([video, "What?", "--start", "100"], "--start 100 lies past the end"),
        ([video, "What?", "--max-pixels", "10"], "--max-pixels 10 is less than a token"),
        ([video, "What?", "--model", str(tmp_path / "nothing")], "does not exist"),
    ):
        assert main(["ask", *arguments]) == 2, arguments
        shown = capsys.readouterr()
        lines = [line for line in shown.err.splitlines() if line.startswith("livecc: error: ")]
        assert len(lines) == 1 and message in lines[0], (arguments, shown.err)
        assert not shown.out


def test_half_a_character_and_a_missing_question_give_a_one_line_error(media):
    for arguments in ([b"bad \xff question"], []):
        done = subprocess.run(
            [sys.executable, "-m", "livecc_hf.cli.main", "ask", str(media / "v.mp4"), *arguments], capture_output=True
        )
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1 and b"Traceback" not in done.stderr


def test_wrong_values_are_refused(ours, media):
    model, processor = ours
    for question in (5, b"What?", "great \ud83d", None):
        with pytest.raises(ValueError, match="expected a string|half of a character"):
            answer(model, processor, media / "v.mp4", question)
    for shown in (torch.zeros(2, 3, 56, 56), 5, [], torch.zeros(0, 3, 56, 56, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="expected"):
            answer(model, processor, shown, QUESTION)
    with pytest.raises(ValueError, match="max_new_tokens='many'"):
        answer(model, processor, media / "v.mp4", QUESTION, max_new_tokens="many")
    with pytest.raises(ValueError, match="reading is of type dict: expected LoadOptions"):
        answer(model, processor, media / "v.mp4", QUESTION, {"fps": 1})
    with pytest.raises(FileNotFoundError, match=r"no such file: .*none.mp4"):
        answer(model, processor, media / "none.mp4", QUESTION)
    model.train()
    try:
        with pytest.raises(ValueError, match="training mode"):
            answer(model, processor, media / "v.mp4", QUESTION)
    finally:
        model.eval()
    assert livecc_hf.answer is answer


def test_animated_pictures_are_videos(media, tmp_path):
    frames = [Image.new("RGB", (56, 56), (60 * n, 0, 0)) for n in range(4)]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.gif")
    assert is_picture_file(tmp_path / "still.gif") and is_picture_file(media / "a.png")
    assert not is_picture_file(tmp_path / "moves.gif") and not is_picture_file(media / "v.mp4")


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("fps", [1, 2])
def test_frame_times_equal_those_of_a_processor_call(name, fps, media, tmp_path):
    """Qwen2.5-VL gets them as positions, Qwen3-VL as text."""
    folder = write_published(name, tmp_path / name)
    model, processor = load_model_and_processor(folder, device="cpu", position_scheme="mrope")[:2]
    seen = []
    model.register_forward_pre_hook(lambda _module, _args, inputs: seen.append(inputs), with_kwargs=True)
    frames = torch.stack([item.frame for item in iter_frames(media / "v.mp4")])
    for each in [media / "v.mp4", frames] if fps == 2 else [media / "v.mp4"]:
        answer(model, processor, each, QUESTION, LoadOptions(fps=fps), max_new_tokens=1, do_sample=False)
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    expected = processor(text=[text], videos=[str(media / "v.mp4")], fps=fps, return_tensors="pt")
    assert expected["video_grid_thw"][0, 0] == 2 * fps
    assert all(torch.equal(inputs["input_ids"], expected["input_ids"]) for inputs in seen)
    assert list(seen[0].get("second_per_grid_ts", [])) == list(expected.get("second_per_grid_ts", []))
    assert list(expected.get("second_per_grid_ts", [])) == ([2 / fps] if name == "qwen2_5_vl" else [])
    said = processor.tokenizer.decode(seen[0]["input_ids"][0])
    assert (f"<{1 / fps / 2 + 2 / fps:.1f} seconds>" in said) == (name == "qwen3_vl")
