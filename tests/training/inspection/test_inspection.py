"""Samples printed and drawn as a person reads them."""

import re

import pytest
import torch
from PIL import Image

from livecc_hf.data.samples.commentary import encode_commentary
from livecc_hf.data.samples.sample import Sample
from livecc_hf.data.unusable import UnusableSample
from livecc_hf.tiny.samples import narration_clip
from livecc_hf.training.inspection import report
from livecc_hf.training.inspection.reading import read_messages, sample_errors
from livecc_hf.training.inspection.report import describe_sample, inspect_samples, patches_to_frames, sample_sheet
from livecc_hf.video.reader import iter_chunks

WORDS = [(0.2, 0.6, "Kick"), (0.7, 1.4, "off"), (3.2, 3.6, "and"), (4.4, 4.9, "«goal»")]
ANSWER = "assistant: «Rest. Yes, the rest.<|im_end|>»"
QUESTION = "What is shown?\nAnswer in one word."


def as_sample(encoded, n_cut_turns=0) -> Sample:
    n_words = sum(len(words) for words in encoded.turn_words)
    return Sample(encoded.model_inputs, n_words, encoded.n_cut_words, n_cut_turns, encoded.n_dropped_turns)


def broken(sample: Sample, **changes) -> Sample:
    return Sample(sample.model_inputs | changes, sample.n_words)


@pytest.fixture(scope="module")
def tiny(tiny_processor):
    """A narrated clip of livecc-tiny's world."""
    clip = narration_clip(1, 12, "calm")
    frames = torch.from_numpy(clip.frames)
    return as_sample(
        encode_commentary(tiny_processor, frames, clip.timestamps_s, clip.words, clip.query, keep_trailing_silence=True)
    )


@pytest.fixture(scope="module")
def big(processor, reference_dir):
    """Six seconds of the reference clip, with what was said before, silence within and at the end, and a late word."""
    chunks = list(iter_chunks(reference_dir / "clip.mp4", end_s=6.5))
    frames, times_s = torch.cat([c.frames for c in chunks]), [t for c in chunks for t in c.timestamps_s]
    words = [*WORDS, (60.0, 60.5, "late")]
    return as_sample(
        encode_commentary(processor, frames, times_s, words, "Comment on it.", previous="So far, so good.")
    )


@pytest.fixture(scope="module")
def chat(processor):
    """Two images of different sizes and a short video, a question and an answer."""
    images = [torch.full((3, 56, 112), 90, dtype=torch.uint8), torch.full((3, 112, 56), 200, dtype=torch.uint8)]
    video = torch.arange(0, 240, 20, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 56, 84).contiguous()
    content = [{"type": "image"}, {"type": "image"}, {"type": "video"}, {"type": "text", "text": QUESTION}]
    messages = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    texts = [prompt, prompt + "Rest. Yes, the rest.<|im_end|>\n"]
    n_prompt, inputs = (
        processor(text=[text], images=images, videos=[video], return_tensors="pt", do_sample_frames=False)
        for text in texts
    )
    ids = inputs.pop("input_ids")[0]
    labels = ids.clone()
    labels[: n_prompt["input_ids"].shape[1]] = -100
    labels[-1] = -100
    inputs.pop("attention_mask")
    types = (ids == processor.image_token_id).long() + 2 * (ids == processor.video_token_id).long()
    return Sample(dict(inputs) | {"input_ids": ids, "labels": labels, "mm_token_type_ids": types}, n_words=4)


@pytest.mark.parametrize("size", [(56, 84), (112, 140)])
def test_frames_come_back_from_patches(processor, size):
    frames = torch.randint(0, 256, (6, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    patches, grid = processor.video_processor.frames_to_patches(frames, do_resize=False)
    back = patches_to_frames(patches, grid, processor.video_processor)
    assert back.dtype == torch.uint8
    assert (back.int() - frames.int()).abs().max() <= 1


def test_an_image_comes_back_from_patches(processor):
    image = torch.randint(0, 256, (3, 56, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs = processor.image_processor(images=[image], do_resize=False, return_tensors="pt")
    back = patches_to_frames(inputs["pixel_values"], inputs["image_grid_thw"], processor.image_processor)
    assert (back.int() - image.int()).abs().max() <= 1


def test_patches_that_do_not_fit_their_grid_are_refused(processor):
    with pytest.raises(ValueError, match=r"\(3, 1176\): expected \(4, 1176\) for a grid of 1 x 2 x 2"):
        patches_to_frames(torch.zeros(3, 1176), (1, 2, 2), processor.video_processor)


def test_a_commentary_has_a_line_for_each_turn(big, processor):
    text = describe_sample(big, processor, "clip.mp4 at 0.0 s")
    header, *lines = text.split("\n")
    supervised = int((big.model_inputs["labels"] != -100).sum())
    assert header.startswith(f"clip.mp4 at 0.0 s: {big.n_tokens} tokens ({supervised} supervised, ")
    flat = " ".join(text.split())
    assert "4 words; cut: 1 word, 0 turns; 1 silent turn dropped at the end" in flat
    _, h, w = big.model_inputs["video_grid_thw"][0].tolist()
    turns = [line for line in lines if re.match(r" +\d+\.\d-\d+\.\d s ", line)]
    assert [line.split()[0] for line in turns] == ["0.0-3.0", "3.0-4.0", "4.0-5.0", "5.0-6.0"]
    assert f"6 frames {w * 14}x{h * 14}" in turns[0]
    assert f"2 frames {w * 14}x{h * 14}" in turns[1]
    assert "« ...<|im_end|>»" in turns[1] and "«and ...<|im_end|>»" in turns[2]
    # The query stands before the first words, plain; a word's own marks are left as they are.
    assert "Comment on it." in turns[0] and "«Comment" not in text
    assert "So far, so good." in text and "«Kick off ...<|im_end|>»" in text
    assert "««goal» ...<|im_end|>»" in text
    assert "ERROR" not in text


def test_counts_of_the_turns_add_up(big, processor):
    lines = describe_sample(big, processor).split("\n")
    counts = [int(n) for line in lines for n in re.findall(r"(?:system: |  )(\d+) tokens(?: \(\d+ \+|$)", line)]
    parts = [[int(n) for n in found] for line in lines for found in re.findall(r"\((\d+) \+ (\d+) \+ (\d+)\)", line)]
    assert len(parts) == 4
    assert len(counts) == 5  # with the system prompt's
    assert sum(counts) == big.n_tokens
    assert sum(part[1] for part in parts) == int((big.model_inputs["mm_token_type_ids"] == 2).sum())
    assert sum(part[2] for part in parts) == int((big.model_inputs["labels"] != -100).sum())
    assert sum(message.n_tokens for message in read_messages(big, processor)) == big.n_tokens


def test_long_texts_are_wrapped_and_whole(processor):
    words = [(n / 30, (n + 1) / 30, f"word{n}") for n in range(80)]
    frames = torch.zeros(6, 3, 56, 56, dtype=torch.uint8)
    query = " ".join(f"query{n}" for n in range(60))
    encoded = encode_commentary(processor, frames, [n / 2 for n in range(6)], words, query)
    text = describe_sample(as_sample(encoded), processor, width=100)
    assert max(map(len, text.split("\n"))) <= 100
    flat = " ".join(text.split())
    assert all(f" query{n} " in flat for n in range(60))
    # Only the words that end by the last frame at 2.5 s are there, each once.
    spoken = flat[flat.index("«") : flat.index("»")]
    assert [int(n) for n in re.findall(r"word(\d+)", spoken)] == list(range(sum(len(w) for w in encoded.turn_words)))


def test_a_conversation_prints_as_messages(chat, processor):
    text = describe_sample(chat, processor, "chat.json line 3")
    assert "[image 1: 112x56 px, 8 vision tokens]" in text
    assert "[image 2: 56x112 px, 8 vision tokens]" in text
    _, h, w = chat.model_inputs["video_grid_thw"][0].tolist()
    assert f"[video 1: 12 frames {w * 14}x{h * 14} px, " in text
    assert "      What is shown?\n      Answer in one word." in text
    assert "      «Rest. Yes, the rest.<|im_end|>»" in text
    assert "ERROR" not in text


def test_the_sheet_of_a_conversation_shows_its_media_and_texts(chat, processor):
    section = report._section("chat.json line 3", chat, processor)
    # Of a video of 12 frames the first five and the last three.
    labels = ["image 1", "image 2", *(f"video 1, frame {n} of 12" for n in range(1, 6))]
    labels += ["video 1, frame 10 of 12 (after 4 left out)", "video 1, frame 11 of 12", "video 1, frame 12 of 12"]
    assert [cell.label for cell in section.cells] == labels
    means = [round(cell.frame.float().mean().item()) for cell in section.cells]
    assert means == [90, 200, *range(0, 100, 20), 180, 200, 220]
    assert section.text.split("\n") == ["user: What is shown?", "Answer in one word.", ANSWER]
    assert sample_sheet([("chat", chat)], processor).height > 200


def test_text_alone_is_inspected_too(chat, processor, tmp_path):
    vision = (chat.model_inputs["mm_token_type_ids"] != 0).nonzero()
    names = ("input_ids", "labels", "mm_token_type_ids")
    sample = Sample({name: chat.model_inputs[name][int(vision[-1]) + 2 :] for name in names}, 4)
    text = inspect_samples([("text", sample)], processor, tmp_path / "a.png")
    assert "(outside of a message)" in text and "ERROR" not in text and "words per second" not in text


def test_bold_marks_for_a_terminal(big, processor):
    assert "\x1b[1m«and ...<|im_end|>»\x1b[0m" in describe_sample(big, processor, bold=True)
    assert "\x1b" not in describe_sample(big, processor)


def test_control_characters_are_printed_escaped(processor):
    frames = torch.zeros(6, 3, 56, 56, dtype=torch.uint8)
    words = [(0.1, 0.2, "a\x1b[2Jb")]
    text = describe_sample(as_sample(encode_commentary(processor, frames, range(6), words)), processor)
    assert r"a\x1b[2Jb" in text and "\x1b" not in text


def test_labels_that_differ_from_their_tokens_are_called_out(big, processor):
    inputs = big.model_inputs
    shifted = torch.roll(inputs["labels"], -1)  # labels shifted already: the trainer would shift them twice
    text = describe_sample(broken(big, labels=shifted), processor)
    n_wrong = int(((shifted != -100) & (shifted != inputs["input_ids"])).sum())
    assert f"ERROR: {n_wrong} labels differ from the tokens at their positions" in text
    assert f"and {n_wrong - 5} more" in text
    one = inputs["labels"].clone()
    at = int((one != -100).nonzero()[0])
    one[at] = processor.end_id
    (error,) = sample_errors(broken(big, labels=one), processor)
    assert f"token {at} is {int(inputs['input_ids'][at])} " in error and "'<|im_end|>'" in error


def test_tensors_that_do_not_belong_together_are_called_out(big, chat, processor):
    inputs = big.model_inputs
    cases = {
        "no token is supervised": {"labels": torch.full_like(inputs["labels"], -100)},
        "vision tokens are supervised": {"labels": inputs["input_ids"]},
        "mm_token_type_ids do not fit": {"mm_token_type_ids": torch.zeros_like(inputs["mm_token_type_ids"])},
        "video_grid_thw asks for": {"video_grid_thw": inputs["video_grid_thw"][:-1]},
        "pixel_values_videos holds": {"pixel_values_videos": inputs["pixel_values_videos"][:-4]},
    }
    for message, changes in cases.items():
        assert message in describe_sample(broken(big, **changes), processor, width=1000)
    fewer = broken(chat, image_grid_thw=chat.model_inputs["image_grid_thw"][:1])
    describe_sample(fewer, processor)
    assert [error.split()[0] for error in sample_errors(fewer, processor)] == ["image", "pixel_values"]
    assert sample_errors(big, processor) == sample_errors(chat, processor) == []


def test_the_sheet_shows_what_the_model_gets(processor):
    grey = torch.arange(0, 250, 25, dtype=torch.uint8)[:, None, None, None]
    frames = grey.expand(-1, 3, 280, 280).contiguous()
    sample = as_sample(encode_commentary(processor, frames, [n / 2 for n in range(10)], WORDS))
    sheet = sample_sheet([("clip", sample)], processor)
    # Frames 0, 1, 2 and 5 of the first turn, two each of the next two, in one row of eight.
    middles = [sheet.getpixel((10 + 230 * column + 110, 160))[0] for column in range(8)]
    assert all(abs(a - 25 * b) <= 1 for a, b in zip(middles, [0, 1, 2, 5, 6, 7, 8, 9], strict=True))


def test_long_samples_are_shortened_on_the_sheet_and_say_so(processor, tmp_path, monkeypatch):
    frames = torch.zeros(80, 3, 280, 280, dtype=torch.uint8)
    words = [(n / 2, n / 2 + 0.1, f"w{n}") for n in range(78)]
    sample = as_sample(
        encode_commentary(processor, frames, [n / 2 for n in range(80)], words, max_pixels=56 * 56, min_pixels=56 * 56)
    )
    section = report._section("long", sample, processor)
    assert len(section.cells) == report.SHEET_FRAMES
    assert "24 of 80 frames shown (56 left out)" in section.title
    assert section.cells[-1].time_s == 39.5
    assert [cell.label for cell in section.cells if "left out" in cell.label] == [
        "2.5 s (after 2 left out)",
        "38.0 s (after 54 left out)",
    ]


def test_inspecting_prints_all_and_writes_the_sheet(tiny, tiny_processor, tmp_path):
    samples = [
        ("world 1", tiny),
        ("gone.mp4 at 3.0 s", UnusableSample("missing_file", "gone.mp4 does not exist")),
        ("world 2", broken(tiny, labels=torch.full_like(tiny.model_inputs["labels"], -100))),
    ]
    out = tmp_path / "new" / "sheet.png"
    text = inspect_samples(iter(samples), tiny_processor, out)
    assert "gone.mp4 at 3.0 s: UNUSABLE, missing_file (a media file does not exist): gone.mp4 does not exist" in text
    assert "3 samples: 2 usable, 1 unusable" in text
    assert f"min {tiny.n_tokens}, median {tiny.n_tokens}, max {tiny.n_tokens}" in text
    assert "unusable: 1 missing_file" in text
    assert "ERROR: 1 error above" in text
    seconds = 2 * 12.0
    assert f"words per second: {2 * tiny.n_words / seconds:.2f} ({2 * tiny.n_words} words in {seconds:.1f} s" in text
    with Image.open(out) as sheet:
        assert sheet.width > 1000


def test_nothing_to_inspect_is_an_error(processor, tmp_path):
    with pytest.raises(ValueError, match="no samples to inspect: the dataset is empty"):
        inspect_samples([], processor, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
