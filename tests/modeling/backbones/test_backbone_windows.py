"""On every backbone: after an eviction, kept keys are as if they had always been at their new positions."""

import pytest
import torch
from replay import Item, Replay

from livecc_hf.modeling.grammar import VISION_END, VISION_START

# Backbones with one vision block per frame pair, each after its time.
LABELLED = ("qwen3_vl",)


def turn_items(processor, config, ids, turn, end_s, grid):
    """The items of a turn's prompt; its vision is found by the markers."""
    opens, closes = (processor.tokenizer.convert_tokens_to_ids(token) for token in (VISION_START, VISION_END))
    first, last = ids.index(opens), len(ids) - 1 - ids[::-1].index(closes)
    t, h, w = grid[0].tolist()
    if config.backbone in LABELLED:
        start_s = end_s - (1 if turn else 3)
        first -= len(processor.tokenizer(f"<{start_s + 0.25:.1f} seconds>", add_special_tokens=False)["input_ids"])
        t = 1
    items = []
    for at, token in enumerate(ids):
        of = turn - 1 if turn and at < 2 else turn  # <|im_end|>\n closes the turn before
        begins = token == config.video_token_id and ids[at - 1] != token
        items.append(Item(token, of, "vision" if first <= at <= last else "text", end_s, (t, h, w) if begins else None))
    return items


@pytest.mark.parametrize("window", [{"vision_window_s": 2.0, "text_window": 60, "text_sink": 70}])
def test_a_sliding_window_equals_its_replay(window, backbone_model, backbone_processor, load_frames, options):
    model, processor = backbone_model, backbone_processor
    frames = load_frames("live_cc")[:20, :, :64, :96]
    options = options | {"repetition_penalty": 1.0, "max_new_tokens": 3}
    stream = model.start_stream(processor, **options, **window)
    segments = stream.push(frames)
    assert len(segments) == 8
    replay, pending = Replay(model, "mrope"), []
    for turn, (clip, segment) in enumerate(zip([frames[:6], *frames[6:].split(2)], segments, strict=True)):
        end_s = 3.0 + turn
        patches, grid = processor.video_processor.frames_to_patches(
            clip, min_pixels=options["min_pixels"], max_pixels=options["max_pixels"]
        )
        n_text = {}
        for item in replay.items:
            n_text[item.turn] = n_text.get(item.turn, 0) + (item.kind == "text")
        stays = {t for t in n_text if t in (0, turn - 1)}
        stays |= {t for t in n_text if sum(n for u, n in n_text.items() if u <= t) <= window["text_sink"]}
        stays |= {t for t in n_text if sum(n for u, n in n_text.items() if u >= t) <= window["text_window"]}
        replay.evict_except(
            lambda item, kept=stays, now=end_s: (
                item.turn in kept if item.kind == "text" else item.end_s > now - window["vision_window_s"]
            )
        )
        ids = processor.turn_ids(
            end_s - (1 if turn else 3), end_s, len(patches) // 4, "" if turn else "Comment.", not turn
        )
        new = [Item(i, turn - 1, "text", end_s - 1) for i in pending]
        new += turn_items(processor, model.config, ids, turn, end_s, grid)
        with torch.no_grad():
            seen = model.model.visual(patches, grid_thw=grid)
        said = list(segment.token_ids)
        logits = [replay.prefill(new, seen.pooler_output, getattr(seen, "deepstack_features", ()))]
        logits += [replay.prefill([Item(token, turn, "text", end_s)]) for token in said[:-1]]
        torch.testing.assert_close(segment.logits, torch.stack(logits), atol=1e-3, rtol=0)
        pending = [] if said[-1] == processor.end_id else said[-1:]
    assert stream.state.n_evicted > 50
    assert stream.state.token_ids == [item.token_id for item in replay.items]
    assert stream.state.next_position == replay.positions().max() + 1
