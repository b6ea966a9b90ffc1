"""Prompts equal the chat template, patches equal the stock processor's, samples are aligned."""

import pytest
import torch
from media import write_video
from PIL import Image

from livecc_hf.captions.turns import split_turns, spoken_text
from livecc_hf.data.samples.commentary import encode_commentary
from livecc_hf.modeling import StreamingProcessor
from livecc_hf.modeling.grammar import query_text, time_label
from livecc_hf.modeling.model_runner import _patches

WORDS = [(0.2, 0.6, "red"), (0.7, 2.4, "ball"), (2.6, 3.4, "goes"), (5.2, 6.0, "left"), (9.0, 9.5, "late")]


def clip(n_frames, start_s=0.0):
    frames = torch.randint(0, 255, (n_frames, 3, 84, 112), generator=torch.Generator().manual_seed(n_frames))
    return frames.to(torch.uint8), [start_s + n / 2 for n in range(n_frames)]


def test_a_sample_is_the_chat_templates_conversation(processor):
    frames, times_s = clip(14)
    sample = encode_commentary(processor, frames, times_s, WORDS, query="Say.", title="Balls", max_pixels=12544)
    messages = []
    for span, words in zip(split_turns(14), sample.turn_words, strict=False):
        content = [{"type": "text", "text": time_label(span.start_s, span.end_s)}, {"type": "video"}]
        if span.first_frame == 0:
            content.append({"type": "text", "text": query_text("Say.", "Balls")})
        messages += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": spoken_text(words)}]},
        ]
    videos = [frames[s.first_frame : s.first_frame + s.n_frames] for s in split_turns(14)][: len(sample.turn_words)]
    size = {"shortest_edge": 12544, "longest_edge": 12544}
    text = processor.apply_chat_template(messages)
    stock = processor(text=[text], videos=videos, size=size, do_sample_frames=False, return_tensors="pt")
    inputs = sample.model_inputs
    assert inputs["input_ids"].tolist() == stock["input_ids"][0].tolist()
    assert inputs["mm_token_type_ids"].tolist() == stock["mm_token_type_ids"][0].tolist()
    assert torch.equal(inputs["video_grid_thw"], stock["video_grid_thw"])
    torch.testing.assert_close(inputs["pixel_values_videos"], stock["pixel_values_videos"])


def test_only_words_and_turn_ends_are_supervised(processor):
    frames, times_s = clip(14)
    sample = encode_commentary(processor, frames, times_s, WORDS)
    labels = sample.model_inputs["labels"]
    kept = labels != -100
    assert torch.equal(labels[kept], sample.model_inputs["input_ids"][kept])
    text = processor.tokenizer.decode(labels[kept])
    said = ["red ball ...", "goes ...", " ...", " ...", "left ..."]
    assert text == "".join(turn + "<|im_end|>" for turn in said)
    assert (sample.n_cut_words, sample.n_dropped_turns) == (1, 0)


def test_trailing_silence_is_dropped_with_its_frames_unless_kept(processor):
    frames, times_s = clip(14)
    early = WORDS[:2]
    dropped = encode_commentary(processor, frames, times_s, early)
    kept = encode_commentary(processor, frames, times_s, early, keep_trailing_silence=True)
    assert (len(dropped.turn_words), dropped.n_dropped_turns) == (1, 4)
    assert (len(kept.turn_words), kept.n_dropped_turns) == (5, 0)
    assert len(kept.model_inputs["video_grid_thw"]) == 5


def test_a_sample_follows_the_clock_of_its_words(processor):
    frames, times_s = clip(14)
    shifted = [(start + 90, end + 90, word) for start, end, word in WORDS]
    here = encode_commentary(processor, frames, times_s, WORDS).model_inputs
    there = encode_commentary(processor, frames, [t + 90 for t in times_s], shifted).model_inputs
    assert all(torch.equal(here[k], there[k]) for k in here)


def test_an_odd_clip_repeats_its_last_frame(processor):
    frames, times_s = clip(13)
    odd = encode_commentary(processor, frames, times_s, WORDS).model_inputs
    even = encode_commentary(processor, torch.cat([frames, frames[-1:]]), [*times_s, times_s[-1]], WORDS).model_inputs
    assert all(torch.equal(odd[k], even[k]) for k in odd)


@pytest.mark.parametrize(
    ("n_frames", "n_times", "words", "message"),
    [
        (0, 0, WORDS, "got 0 frames: expected 1 to 480"),
        (482, 482, WORDS, "got 482 frames: expected 1 to 480"),
        (6, 5, WORDS, "got 6 frames but 5 frame times"),
        (6, 6, [], "none of the 0 words ends"),
        (6, 6, [(50, 51, "late")], "none of the 1 words ends between .* 0.00 s and its last at 2.50 s"),
    ],
)
def test_invalid_clips_are_refused(n_frames, n_times, words, message, processor):
    with pytest.raises(ValueError, match=message):
        encode_commentary(
            processor, torch.zeros(n_frames, 3, 28, 28, dtype=torch.uint8), [n / 2 for n in range(n_times)], words
        )


def test_a_turn_is_tokenised_like_the_conversation(processor):
    first = processor.turn_ids(0, 3, 5, "Describe.", is_first=True)
    assert first.count(processor.video_token_id) == 5
    text = processor.tokenizer.decode(first)
    assert text.startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nTime=0.0-3.0s"
    )
    assert text.endswith("<|vision_end|>Describe.<|im_end|>\n<|im_start|>assistant\n")
    later = processor.tokenizer.decode(processor.turn_ids(3, 4, 1))
    assert later.startswith("<|im_end|>\n<|im_start|>user\nTime=3.0-4.0s<|vision_start|>")


def test_special_tokens_in_a_query_are_refused(processor):
    with pytest.raises(ValueError, match=r"special token <\|video_pad\|>: remove it"):
        processor.turn_ids(0, 3, 5, "x<|video_pad|>", is_first=True)


@pytest.mark.parametrize(
    ("frames", "words", "message"),
    [
        (torch.rand(6, 3, 56, 56), WORDS, "float32: expected torch.uint8"),
        (torch.zeros(6, 56, 56, 3, dtype=torch.uint8), WORDS, r"expected \(T, 3, H, W\)"),
        (torch.zeros(6, 3, 56, 56, dtype=torch.uint8), [(0, 1, "a<|im_end|>b")], r"special token <\|im_end\|>"),
    ],
)
def test_invalid_frames_and_words_are_refused(frames, words, message, processor):
    with pytest.raises(ValueError, match=message):
        encode_commentary(processor, frames, [n / 2 for n in range(6)], words)


def test_pixel_limits_given_at_loading_apply_to_videos(published_checkpoint):
    size = StreamingProcessor.from_pretrained(published_checkpoint, max_pixels=100352).video_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (78400, 100352)


def test_patches_equal_the_processor_call(processor):
    frames, _ = clip(6)
    for low, high in ((None, 50176), (3136, 12544), (None, None)):
        patches, grid = processor.video_processor.frames_to_patches(frames, low, high)
        size = {"shortest_edge": low or min(78400, high or 78400), "longest_edge": high or 602112}
        stock = processor.video_processor(videos=[frames], size=size, do_sample_frames=False, return_tensors="pt")
        torch.testing.assert_close(patches, stock["pixel_values_videos"])
        assert torch.equal(grid, stock["video_grid_thw"])


def test_a_call_with_unresized_frames_of_wrong_size_gives_one_clear_error(processor):
    frames = torch.zeros(4, 3, 56, 90, dtype=torch.uint8)
    for shown in (frames, frames.numpy(), [frames]):
        with pytest.raises(ValueError, match=r"frames are 90x56 pixels, .* both sides must be multiples of 28: resize"):
            processor(text="<|video_pad|>", videos=shown, do_resize=False)
    inputs = processor(text="<|video_pad|>", videos=frames[..., :84], do_resize=False, return_tensors="pt")
    assert inputs["video_grid_thw"].tolist() == [[2, 4, 6]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_pixels": 0}, "min_pixels=0: expected a number above 0"),
        ({"max_pixels": 0}, "max_pixels=0: expected a number above 0"),
        ({"size": {"shortest_edge": 0, "longest_edge": 9000}}, r"size\['shortest_edge'\]=0: expected a number above 0"),
        ({"fps": 0}, "fps=0: expected a rate above 0"),
        ({"num_frames": 0}, "num_frames=0: expected a whole number at least 1"),
        ({"max_frames": 0}, "max_frames=0: expected a whole number at least 1"),
    ],
)
def test_zero_is_refused_as_an_option_of_a_call_on_frames_files_and_images(processor, tmp_path, options, message):
    path = write_video(tmp_path / "v.mp4", n_frames=20, fps=10)
    for video in (clip(4)[0], str(path)):
        with pytest.raises(ValueError, match=message):
            processor(text=["<|vision_start|><|video_pad|><|vision_end|>"], videos=[video], **options)
    if not {"fps", "num_frames", "max_frames"} & set(options):
        with pytest.raises(ValueError, match=message):
            processor(
                text=["<|vision_start|><|image_pad|><|vision_end|>"], images=[Image.new("RGB", (90, 60))], **options
            )


def test_limits_of_a_video_file_are_kept(published_checkpoint, processor, tmp_path):
    own = StreamingProcessor(
        processor.image_processor,
        processor.tokenizer,
        type(processor.video_processor)(size={"shortest_edge": 7056, "longest_edge": 7056}),
        chat_template=processor.chat_template,
    )
    own.save_pretrained(tmp_path)
    size = StreamingProcessor.from_pretrained(tmp_path).video_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (7056, 7056)


def test_frames_of_several_sizes_equal_single_calls(processor):
    video_processor = processor.video_processor
    videos = [
        torch.randint(0, 256, (t, 3, h, w), dtype=torch.uint8) for t, h, w in ((2, 56, 84), (6, 28, 28), (2, 56, 84))
    ]
    alone = [video_processor.frames_to_patches(video, do_resize=False) for video in videos]
    pairs = [(video, video_processor) for video in videos]
    assert torch.equal(_patches(pairs, torch.device("cpu")), torch.cat([patches for patches, _ in alone]))
    assert [list(video_processor.grid(video)) for video in videos] == [grid[0].tolist() for _, grid in alone]
