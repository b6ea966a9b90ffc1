"""Text loss runs for real, on causal language models with random weights."""

import math
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

import numpy as np
import pyarrow as pa
import torch
from models import write_language_model
from scored_clips import make_clips, one_at_a_time, times_faster

from livecc_hf.production.execution.pipeline import open_stage
from livecc_hf.production.schemas import CLIP_SCHEMA, DROPPED_SCHEMA, words_array
from livecc_hf.production.stages import text_loss as module
from livecc_hf.production.stages.text_loss import TextLoss, encode_clips, mean_losses, prompt_of

CONTEXT = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory, published_checkpoint):
    return str(write_language_model(tmp_path_factory.mktemp("lm"), published_checkpoint, context=CONTEXT))


@pytest.fixture(scope="module")
def stage(folder):
    stage = TextLoss(model=folder, device="cpu", min_loss=-1, max_loss=1e9)
    stage.open()
    return stage


def clips(*rows) -> pa.Table:
    """Return clips from (words, title, previous)."""
    columns = {
        "id": [f"v#{i}" for i in range(len(rows))],
        "start_s": [0.0] * len(rows),
        "end_s": [36.0] * len(rows),
        "title": [row[1] for row in rows],
        "previous": [row[2] for row in rows],
    }
    table = {name: columns.get(name, [None] * len(rows)) for name in CLIP_SCHEMA.names}
    words = [None if row[0] is None else [(0.0, 1.0, word) for word in row[0].split()] for row in rows]
    return pa.table(table | {"words": words_array(words)}, schema=CLIP_SCHEMA)


def test_a_unit_that_is_empty_loads_no_model():
    stage = TextLoss(model="/no/such/folder")
    assert len(open_stage(stage, clips())(clips()).kept) == 0
    with pytest.raises(ValueError, match="model folder /no/such/folder does not exist"):
        open_stage(stage, clips(("a b", "", "")))


def varied(n_clips: int = 24) -> list[tuple[str, str, str]]:
    return [(a[:300].strip(), b, c[-400:].strip()) for a, b, c in zip(*make_clips(n_clips, seed=1))]


def test_the_loss_is_the_mean_over_the_words_tokens_without_the_ending(stage):
    tokenizer, model = stage.loaded.tokenizer, stage.loaded.model
    chat = [
        {"role": "user", "content": prompt_of("A game", "they line up")},
        {"role": "assistant", "content": "he shoots and scores"},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    before, answer, ending = text.partition("he shoots and scores")
    assert "Video title: A game\nPrevious transcription: they line up\n" in before and ending == "<|im_end|>\n"
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, answer)]
    both = torch.tensor([ids[0] + ids[1]])
    with torch.no_grad():
        # Transformers' own loss, with the prompt left out.
        labels = torch.tensor([[-100] * len(ids[0]) + ids[1]])
        expected = model(input_ids=both, labels=labels).loss.item()
    result = stage(clips(("he shoots and scores", "A game", "they line up")))
    assert result.kept["text_loss"].to_pylist() == pytest.approx([expected], abs=1e-5)
    assert result.kept.schema == CLIP_SCHEMA


@pytest.mark.parametrize("tokens_per_batch", [1, 700, 100_000])
def test_batches_give_the_losses_of_one_at_a_time(stage, folder, tokens_per_batch):
    rows = varied()
    batched = TextLoss(model=folder, device="cpu", tokens_per_batch=tokens_per_batch, min_loss=-1, max_loss=1e9)
    losses = batched(clips(*rows)).kept["text_loss"].to_numpy()
    expected = one_at_a_time(stage, *(list(column) for column in zip(*rows)))
    assert np.abs(losses - expected).max() < 1e-4 and len(set(np.round(losses, 3))) > 10


def test_blocks_of_logits_change_nothing(stage, monkeypatch):
    rows = varied(6)
    whole = stage(clips(*rows)).kept["text_loss"].to_numpy()
    monkeypatch.setitem(module._LOGITS_PER_BLOCK, "cpu", 7 * 2000)
    assert stage(clips(*rows)).kept["text_loss"].to_numpy() == pytest.approx(whole, abs=1e-5)


def test_a_model_that_scales_its_logits_is_run_whole(tmp_path, published_checkpoint):
    folder = write_language_model(tmp_path, published_checkpoint, kind="granite")
    stage = TextLoss(model=str(folder), device="cpu", min_loss=-1, max_loss=1e9)
    assert not stage.loaded.is_plain_head
    columns = [list(column) for column in zip(*varied(6))]
    losses, _ = stage.losses(*columns)
    assert losses == pytest.approx(one_at_a_time(stage, *columns), abs=1e-4)
    clip = encode_clips(stage.loaded.tokenizer, *([column[0]] for column in columns), 1024)
    assert abs(mean_losses(stage.loaded.model, clip, is_plain_head=True)[0] - losses[0]) > 0.01


def test_the_projection_is_of_answers_only(stage):
    assert stage.loaded.is_plain_head
    seen = []
    hook = stage.loaded.model.lm_head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))
    rows = varied(4)
    stage(clips(*rows))
    hook.remove()
    tokens = stage.loaded.tokenizer([row[0] for row in rows], add_special_tokens=False)["input_ids"]
    assert sum(seen) == sum(map(len, tokens))


def test_thresholds_drop_and_say_the_loss(folder, stage):
    rows = varied(9)
    losses = np.sort(stage(clips(*rows)).kept["text_loss"].to_numpy())
    between = TextLoss(model=folder, device="cpu", min_loss=losses[1:3].mean(), max_loss=losses[5:7].mean())
    result = between(clips(*rows))
    assert np.sort(result.kept["text_loss"].to_numpy()) == pytest.approx(losses[2:6], abs=1e-5)
    assert result.dropped.schema == DROPPED_SCHEMA
    dropped = sorted((row["value"], row["reason"]) for row in result.dropped.to_pylist())
    assert [reason for _, reason in dropped] == ["loss_too_low"] * 2 + ["loss_too_high"] * 3
    assert [value for value, _ in dropped] == pytest.approx([*losses[:2], *losses[6:]], abs=1e-5)


def test_long_previous_words_lose_their_front(stage):
    previous = " ".join(f"number{i}" for i in range(900))
    tokenizer = stage.loaded.tokenizer
    (clip,) = encode_clips(tokenizer, ["he scores"], ["A game"], [previous], CONTEXT)
    assert CONTEXT - 12 <= len(clip.ids) <= CONTEXT
    prompt = tokenizer.decode(clip.ids[: clip.n_prompt])
    kept = prompt.partition("Previous transcription: ")[2].partition("\n")[0].split()
    assert kept == previous.split()[-len(kept) :] and len(kept) > 50
    assert "Video title: A game" in prompt and tokenizer.decode(clip.ids[clip.n_prompt :]) == "he scores"
    assert math.isfinite(stage(clips(("he scores", "A game", previous))).kept["text_loss"][0].as_py())


def test_previous_words_are_read_unless_told(folder, stage):
    row = ("he scores again", "A game", "one goal already")
    alone = TextLoss(model=folder, device="cpu", min_loss=-1, max_loss=1e9, use_previous=False)(clips(row)).kept
    assert alone["text_loss"] == stage(clips((*row[:2], None))).kept["text_loss"]
    assert alone["text_loss"] != stage(clips(row)).kept["text_loss"]
    assert alone["previous"].to_pylist() == ["one goal already"]


def test_max_tokens_is_a_limit_below_the_context(folder):
    stage = TextLoss(model=folder, device="cpu", max_tokens=128)
    assert stage.loaded.max_tokens == 128


def test_clips_that_cannot_be_scored_are_errors_and_the_rest_goes_on(stage):
    endless = " ".join(["words"] * CONTEXT)
    result = stage(clips(("he scores", None, None), (None, "t", ""), ("", "t", ""), (endless, "t", "before " * 50)))
    assert result.kept["id"].to_pylist() == ["v#0"] and result.kept["text_loss"][0].as_py() > 0
    rows = result.dropped.to_pylist()
    assert [row["reason"] for row in rows] == ["error"] * 3
    assert rows[0]["detail"] == rows[1]["detail"] == "the clip has no words"
    assert f"more than the limit of {CONTEXT}" in rows[2]["detail"]


def test_a_slice_of_a_table_and_an_empty_one_are_fine(stage):
    table = pa.concat_tables([clips(*varied(3)), clips(*varied(5))])
    whole = stage(table).kept["text_loss"].to_pylist()
    assert stage(table.slice(2, 4)).kept["text_loss"].to_pylist() == pytest.approx(whole[2:6], abs=1e-5)
    empty = stage(table.slice(0, 0))
    assert len(empty.kept) == 0 and empty.kept.schema == CLIP_SCHEMA


def test_open_says_what_is_wrong(tmp_path, folder):
    with pytest.raises(ValueError, match="model folder .*nowhere does not exist"):
        TextLoss(model=str(tmp_path / "nowhere")).open()
    with pytest.raises(ValueError, match="device 'tpu9' cannot be used"):
        TextLoss(model=folder, device="tpu9").open()
    with pytest.raises(ValueError, match="dtype 'int8' is unknown"):
        TextLoss(model=folder, device="cpu", dtype="int8").open()
    with pytest.raises(ValueError, match=r"min_loss 5 is not below max_loss 1\.5"):
        TextLoss(min_loss=5, max_loss=1.5)
    (Path(folder) / "chat_template.jinja").rename(tmp_path / "chat_template.jinja")
    try:
        with pytest.raises(ValueError, match="has no chat template"):
            TextLoss(model=folder, device="cpu").open()
    finally:
        (tmp_path / "chat_template.jinja").rename(Path(folder) / "chat_template.jinja")


@pytest.mark.gpu
def test_losses_on_a_gpu_are_those_of_a_cpu(folder, stage):
    columns = [list(column) for column in zip(*varied())]
    expected, _ = stage.losses(*columns)
    exact, _ = TextLoss(model=folder, device="cuda", dtype="float32").losses(*columns)
    assert exact == pytest.approx(expected, abs=1e-4)
    rough, _ = TextLoss(model=folder, device="cuda").losses(*columns)  # in bfloat16
    assert rough == pytest.approx(expected, abs=0.1)


@pytest.mark.slow
def test_batches_are_twice_as_fast_as_one_at_a_time(tmp_path, published_checkpoint):
    vocabulary = 151_936  # Qwen2-1.5B-Instruct's
    folder = write_language_model(tmp_path, published_checkpoint, context=32_768, vocabulary=vocabulary)
    assert times_faster(TextLoss(model=str(folder), device="cpu"), n_clips=24, repeats=2) >= 2
