"""A stream's logits, and those of one pass over the whole conversation."""

import torch


def run(stream, frames, portions):
    segments, i, sizes, size = [], 0, iter(portions), None
    while i < len(frames):
        size = next(sizes, size)
        segments += stream.push(frames[i : i + size])
        i += size
    return segments + stream.finish()


def assert_same(got, expected, atol=1e-4):
    assert got == expected
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.logits, b.logits, atol=atol, rtol=0)


def conversation(processor, stream, segments, frames, options):
    """The inputs of one pass over a stream's whole conversation."""
    ids = torch.tensor([stream.state.token_ids + list(segments[-1].token_ids[-1:])])
    patches, grids = [], []
    first = processor.find_grammar().first_turn_frames
    for clip in [frames[:first], *frames[first:].split(2)]:
        cut, grid = processor.video_processor.frames_to_patches(
            clip, min_pixels=options["min_pixels"], max_pixels=options["max_pixels"]
        )
        patches.append(cut)
        grids.append(grid)
    return {
        "input_ids": ids,
        "mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids(ids)),
        "pixel_values_videos": torch.cat(patches),
        "video_grid_thw": torch.cat(grids),
    }


def said_logits(logits, ids, processor, segments):
    """The logits of each turn's generated tokens, out of those of all tokens."""
    header = processor.tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    ids = ids[0].tolist()
    starts = [i + len(header) for i in range(len(ids)) if ids[i : i + len(header)] == header]
    return [logits[s - 1 : s - 1 + len(g.token_ids)] for s, g in zip(starts, segments, strict=True)]
