"""On every backbone, a stream generates the same as one pass over the conversation."""

import pytest
import torch
from one_pass import assert_same, conversation, run, said_logits

from livecc_hf.modeling import StreamOptions
from livecc_hf.pool import CommentaryPool


@pytest.mark.parametrize("portions", [[1], [3, 5, 1], [14]], ids=["one by one", "odd portions", "all at once"])
def test_a_stream_equals_one_pass(portions, backbone_model, backbone_processor, frames, options):
    stream = backbone_model.start_stream(backbone_processor, window="none", **options)
    segments = run(stream, frames, portions)
    assert len(segments) == 5
    inputs = conversation(backbone_processor, stream, segments, frames, options)
    with torch.no_grad():
        logits = backbone_model(**inputs).logits[0]
    expected = said_logits(logits, inputs["input_ids"], backbone_processor, segments)
    for segment, one_shot in zip(segments, expected, strict=True):
        torch.testing.assert_close(segment.logits, one_shot, atol=1e-4, rtol=0)
    stream.reset()
    assert_same(run(stream, frames, [14]), segments)


def test_interleaved_streams_and_a_pool_equal_single_ones(backbone_model, backbone_processor, frames, options):
    shown = [frames, frames.flip(0), frames.flip(3)]
    alone = [run(backbone_model.start_stream(backbone_processor, **options), each, [14]) for each in shown]
    streams = [backbone_model.start_stream(backbone_processor, **options) for _ in shown]
    mixed = [[] for _ in shown]
    for i in range(0, len(frames), 2):
        for stream, each, segments in zip(streams, shown, mixed):
            segments += stream.push(each[i : i + 2])
        backbone_model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, do_sample=False)  # in between
    for got, expected in zip(mixed, alone, strict=True):
        assert_same(got, expected)
    pool = CommentaryPool(backbone_model, backbone_processor, max_streams=3)
    pooled = [pool.join(StreamOptions(**options)) for _ in shown]
    for stream, each in zip(pooled, shown):
        stream.push(each)
    while pool.step():
        pass
    for stream, expected in zip(pooled, alone, strict=True):
        got = []
        while (segment := stream.take()) is not None:
            got.append(segment)
        assert_same(got, expected)
    pool.close()


def test_a_stream_generates_the_same_tokens_as_generate(backbone_model, backbone_processor, frames, options):
    """Each turn against `generate` over the whole conversation so far."""
    greedy = options | {"repetition_penalty": 1.0}
    stream = backbone_model.start_stream(backbone_processor, window="none", **greedy)
    segments = stream.push(frames)
    inputs = conversation(backbone_processor, stream, segments, frames, greedy)
    header = backbone_processor.tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    ids = inputs["input_ids"][0].tolist()
    starts = [i + len(header) for i in range(len(ids)) if ids[i : i + len(header)] == header]
    sizes = inputs["video_grid_thw"].prod(-1).tolist()
    for turn, (start, segment) in enumerate(zip(starts, segments, strict=True)):
        n_patches = sum(sizes[: turn + 1])
        said = backbone_model.generate(
            input_ids=inputs["input_ids"][:, :start],
            attention_mask=torch.ones(1, start, dtype=torch.long),
            mm_token_type_ids=inputs["mm_token_type_ids"][:, :start],
            pixel_values_videos=inputs["pixel_values_videos"][:n_patches],
            video_grid_thw=inputs["video_grid_thw"][: turn + 1],
            do_sample=False,
            max_new_tokens=len(segment.token_ids),
        )
        assert tuple(said[0, start:].tolist()) == segment.token_ids


def test_an_answer_does_not_change_the_commentary(backbone_model, backbone_processor, frames, options):
    undisturbed = run(backbone_model.start_stream(backbone_processor, **options), frames, [14])
    stream = backbone_model.start_stream(backbone_processor, **options)
    segments = stream.push(frames[:8])
    stream.answer("What is it?", max_new_tokens=4)
    assert_same(segments + stream.push(frames[8:]), undisturbed)


def test_finish_generates_an_incomplete_first_turn(backbone_model, backbone_processor, frames, options):
    """Its first turn has two frame pairs, of which the label still says 3 s."""
    stream = backbone_model.start_stream(backbone_processor, window="none", **options)
    segments = run(stream, frames[:4], [4])
    assert [(s.start_s, s.end_s) for s in segments] == [(0.0, 3.0)]
    n_video = stream.state.token_ids.count(backbone_model.config.video_token_id)
    grid = backbone_processor.video_processor.frames_to_patches(
        frames[:4], min_pixels=options["min_pixels"], max_pixels=options["max_pixels"]
    )[1]
    assert n_video == grid.prod() // 4 and grid[0, 0] == 2
