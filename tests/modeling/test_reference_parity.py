"""The recorded runs of the reference implementation, reproduced."""

import json

import pytest
import torch

from livecc_hf.data.samples.commentary import encode_commentary


@pytest.mark.parametrize("entry", ["live_cc", "once"])
def test_recorded_stream_is_reproduced_token_for_token(entry, reference, load_frames, make_model, processor):
    recorded = reference[entry]
    args = recorded["args"]
    frames = load_frames(entry)
    start_s = args.get("video_start", 0.0)
    stream = make_model("reference").start_stream(
        processor,
        query=args["query"],
        do_sample=False,
        repetition_penalty=args["repetition_penalty"],
        max_new_tokens=args["max_new_tokens"],
        do_resize=False,
        output_logits=True,
        window="none",
    )
    segments = stream.push(frames, [start_s + n / 2 for n in range(len(frames))]) + stream.finish()

    assert len(segments) == len(recorded["turns"])
    context = []
    for segment, turn, (seg_start, seg_end, text) in zip(
        segments, recorded["turns"], recorded["segments"], strict=True
    ):
        assert list(segment.token_ids) == turn["generated"]
        ids, logits = turn["first_logits_top10"]
        torch.testing.assert_close(segment.logits[0][ids], torch.tensor(logits), atol=1e-3, rtol=0)
        assert (segment.start_s, segment.end_s) == (seg_start, seg_end)
        assert segment.text == text.strip().removesuffix(" ...").strip()
        context += turn["new_input_ids"] + turn["generated"][:-1]
    assert stream.state.token_ids == context


def test_recorded_positions(reference, make_model, processor, load_frames):
    recorded = reference["live_cc"]
    model = make_model("reference")
    calls = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, inputs, keywords: calls.append(keywords["position_ids"][:, 0]), with_kwargs=True
    )
    stream = model.start_stream(
        processor,
        query=recorded["args"]["query"],
        do_sample=False,
        do_resize=False,
        max_new_tokens=16,
        window="none",
    )
    stream.push(load_frames("live_cc"))
    hook.remove()
    prefills = [rows for rows in calls if rows.shape[1] > 1]
    seen = [
        [rows[:, 0].tolist(), rows[:, -1].tolist(), rows.max(dim=1).values.tolist(), rows.shape[1]] for rows in prefills
    ]
    assert seen == recorded["positions"]


@pytest.mark.parametrize("scheme", ["mrope", "reference"])
def test_long_clip_question_gets_the_positions_of_qwen2_vl(scheme, reference_dir, load_frames, make_model, processor):
    qa = json.loads((reference_dir / "qa.json").read_text())
    model = make_model(scheme)
    input_ids = torch.tensor([qa["input_ids"]])
    patches, grid = processor.video_processor.frames_to_patches(load_frames("qa"), do_resize=False)
    assert grid.tolist() == qa["grid"]
    inputs = {
        "input_ids": input_ids,
        "mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids(input_ids)),
        "pixel_values_videos": patches,
        "video_grid_thw": grid,
    }
    positions, delta = model.model.get_rope_index(
        input_ids, mm_token_type_ids=inputs["mm_token_type_ids"], video_grid_thw=grid
    )
    assert positions[:, 0].tolist() == qa["position_ids"]
    assert delta.item() == qa["rope_delta"]
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    ids, recorded = qa["last_logits_top10"]
    torch.testing.assert_close(logits[ids], torch.tensor(recorded), atol=1e-3, rtol=0)
    answer = model.generate(**inputs, do_sample=False, max_new_tokens=len(qa["generated"]), repetition_penalty=1.0)
    assert answer[0, input_ids.shape[1] :].tolist() == qa["generated"]


@pytest.mark.parametrize("context", ["plain", "with_context"])
def test_training_sample_equals_the_recorded_one(context, reference_dir, processor):
    data = json.loads((reference_dir / "train_sample.json").read_text())
    recorded = data[context]
    _video, text = data["conversation"][0]["content"]
    words = data["conversation"][1]["content"][0]["text_stream"]
    times_s = recorded["frame_pts"]
    frames = torch.zeros(len(times_s), 3, 240, 320, dtype=torch.uint8)
    extra = {"title": text["title"], "previous": text["previous"]} if context == "with_context" else {}
    sample = encode_commentary(processor, frames, times_s, words, query=text["text"], **extra)
    assert sample.model_inputs["input_ids"].tolist() == recorded["input_ids"]
    assert sample.model_inputs["labels"].tolist() == recorded["labels"]
    assert sample.model_inputs["video_grid_thw"].tolist() == recorded["video_grid_thw"]
    assert sum(map(len, sample.turn_words)) + sample.n_cut_words == len(words)
