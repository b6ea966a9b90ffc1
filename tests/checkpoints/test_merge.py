"""`livecc merge` writes a model that equals the base with the adapter; its errors are one line."""

import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.adapters import save_adapter_files
from livecc_hf.checkpoints.errors import ModelLoadError
from livecc_hf.checkpoints.loading import load_model, load_model_and_processor
from livecc_hf.checkpoints.merge import merge_adapter
from livecc_hf.cli.main import main
from livecc_hf.modeling import LiveCCForConditionalGeneration

peft = pytest.importorskip("peft")


def make_adapter(model, processor, base, out, **options):
    """Save an adapter with random weights as training does; return the `PeftModel`."""
    from trl import ModelConfig

    from livecc_hf.training.model.parts import lora_config

    parts = ["vision", "merger", "language_model"]
    wrapped = peft.get_peft_model(model, lora_config(model, ModelConfig(use_peft=True, lora_r=4, **options), parts))
    generator = torch.Generator().manual_seed(0)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    wrapped.save_pretrained(out)
    save_adapter_files(out, model.config, processor, base)
    return wrapped.eval()


@pytest.fixture
def base(published_checkpoint, tmp_path):
    return shutil.copytree(published_checkpoint, tmp_path / "LiveCC-base")


@pytest.fixture
def adapter(base, processor, tmp_path):
    """An adapter folder on a published LiveCC checkpoint, with another position scheme."""
    make_adapter(load_model(base, position_scheme="sequential")[0], processor, base, tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    ids = torch.tensor([[5, 6, 1995, *[1999] * 6, 1996, 7, 8, 9]])
    with torch.no_grad():
        return model(
            input_ids=ids,
            mm_token_type_ids=(ids == 1999).int() * 2,
            pixel_values_videos=torch.randn(24, 1176, generator=generator),
            video_grid_thw=torch.tensor([[1, 4, 6]]),
        ).logits.float()


def test_merged_equals_adapter_on_and_is_a_whole_model(adapter, base, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["merge", str(adapter), str(out), "--max-shard-size", "1MB"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"wrote {out}"
    shutil.rmtree(base)
    expected_files = {"config.json", "modeling_livecc.py", "processor_config.json", "README.md"}
    assert expected_files <= {path.name for path in out.iterdir()}
    assert not list(out.glob("adapter_*"))
    assert len(list(out.glob("model-*.safetensors"))) > 1
    model, _, info = load_model_and_processor(out)
    assert (info.position_scheme, info.notes) == ("sequential", [])
    assert json.loads((out / "config.json").read_text())["message_end_token_id"] == 1988
    assert not hasattr(model, "peft_config")
    card = (out / "README.md").read_text()
    assert "Adapter `adapter` merged into `LiveCC-base`" in card


def test_the_card_of_a_merged_model_says_what_the_adapter_was_trained_on(adapter, tmp_path):
    card = adapter / "README.md"
    head = "license: cc-by-4.0\nlanguage: [en]\ndatasets: [me/clips]\n"
    card.write_text(card.read_text().replace("---\n", f"---\n{head}", 1))
    merged = ModelCard.load(merge_adapter(adapter, tmp_path / "out") / "README.md").data
    assert (merged.license, merged.language, merged.datasets) == ("cc-by-4.0", ["en"], ["me/clips"])
    assert "lora" not in merged.tags and merged.library_name == "transformers"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "lora_target_modules": ["q_proj", "fc1"]},
        {"lora_modules_to_save": ["lm_head"]},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_the_logits_are_those_of_the_adapter(base, processor, tmp_path, options):
    torch.manual_seed(0)  # the rounding error depends on the adapter's random weights
    model = load_model(base, position_scheme="sequential")[0]
    plain = logits(model)
    trained = logits(make_adapter(model, processor, base, tmp_path / "adapter", **options))
    on = logits(load_model(tmp_path / "adapter")[0])
    merged = logits(load_model(merge_adapter(tmp_path / "adapter", tmp_path / "out"))[0])
    assert (plain - trained).abs().max() > 0.01
    torch.testing.assert_close(on, trained, atol=1e-6, rtol=0)
    torch.testing.assert_close(merged, on, atol=1e-5, rtol=1e-5)


def said(model, processor) -> list[list[int]]:
    """Return the tokens of three turns."""
    frames = torch.randint(0, 255, (10, 3, 56, 84), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    stream = model.start_stream(processor, do_sample=False, max_new_tokens=8)
    return [segment.token_ids for segment in [*stream.push(frames), *stream.finish()]]


def test_a_model_merged_while_loading_generates_the_same_and_saves_whole(adapter, base, processor, tmp_path):
    on, own, _ = load_model_and_processor(adapter)
    merged, _, info = load_model_and_processor(adapter, merge=True)
    torch.testing.assert_close(logits(merged), logits(on), atol=1e-5, rtol=1e-5)
    expected = said(on, own)
    assert len(expected) == 3
    assert said(merged, own) == expected != said(load_model(base, position_scheme="sequential")[0], own)
    assert info.notes == [f"{adapter}: adapter on base {base}"]
    assert not [name for name, _ in merged.named_modules() if "lora" in name]
    assert not hasattr(merged, "peft_config")
    merged.save_pretrained(tmp_path / "out")
    processor.save_pretrained(tmp_path / "out")
    assert said(load_model(tmp_path / "out")[0], own) == expected


def test_an_adapter_on_four_bit_weights_must_be_merged_first(tmp_path):
    pytest.importorskip("bitsandbytes")
    tiny = bundled_model_path()
    model, own, _ = load_model_and_processor(tiny)
    make_adapter(model, own, tiny, tmp_path / "adapter")
    with pytest.raises(ModelLoadError, match=r"cannot be merged into 4-bit weights .*livecc merge .*adapter OUT"):
        load_model(tmp_path / "adapter", merge=True, load_in_4bit=True)
    on, _ = load_model(tmp_path / "adapter", load_in_4bit=True)
    written, _ = load_model(merge_adapter(tmp_path / "adapter", tmp_path / "out"), load_in_4bit=True)
    assert written.is_loaded_in_4bit
    assert not [name for name, _ in written.named_modules() if "lora" in name]
    full, _ = load_model(tmp_path / "adapter")
    frames = torch.randint(0, 255, (6, 3, 112, 112), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)

    def first_logits(model):
        stream = model.start_stream(own, do_sample=False, max_new_tokens=1, output_logits=True)
        return stream.push(frames)[0].logits[0]

    exact, unmerged, requantised = (first_logits(model) for model in (full, on, written))
    # Both differ from the exact model by no more than the 4-bit rounding.
    lost = (unmerged - exact).norm()
    assert 0 < lost < 0.5 * exact.norm()
    assert (requantised - exact).norm() < 2 * lost


def test_commentate_merges_and_says_so(adapter, base, reference_dir, capsys):
    run = ["commentate", str(reference_dir / "clip.mp4"), "--greedy", "--max-pixels", "50176", "--end", "5", "--model"]
    assert main([*run, str(adapter)]) == 0
    unmerged, err = capsys.readouterr()
    hint = "an adapter that is not merged makes each token slower: --merge merges it while loading, livecc merge"
    assert f"{hint} {adapter} OUT writes a merged model" in err
    assert main([*run, str(adapter), "--merge"]) == 0
    out, err = capsys.readouterr()
    assert out == unmerged
    assert "the adapter was merged into the weights" in err
    assert main([*run, str(base), "--merge"]) == 2
    err = capsys.readouterr().err
    assert f"{base} is a whole model, with nothing to merge: leave out merge / --merge" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "options", [{}, {"lora_modules_to_save": ["embed_tokens"]}, {"lora_modules_to_save": ["lm_head"]}]
)
def test_tied_embeddings(base, processor, tmp_path, options):
    config = load_model(base, position_scheme="mrope")[0].config
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    torch.manual_seed(0)
    tied = tmp_path / "tied"
    LiveCCForConditionalGeneration(config).save_pretrained(tied)
    processor.save_pretrained(tied)
    trained = logits(make_adapter(load_model(tied)[0], processor, tied, tmp_path / "adapter", **options))
    on = logits(load_model(tmp_path / "adapter")[0])
    torch.testing.assert_close(on, trained, atol=1e-6, rtol=0)
    merged, _ = load_model(merge_adapter(tmp_path / "adapter", tmp_path / "out"))
    torch.testing.assert_close(logits(merged), on, atol=1e-5, rtol=1e-5)


def test_keeps_the_bases_dtype_and_rounds_once_at_the_end(base, adapter, tmp_path):
    exact, _ = load_model(merge_adapter(adapter, tmp_path / "exact"))
    half = tmp_path / "LiveCC-half"
    model, processor, _ = load_model_and_processor(base, position_scheme="reference", dtype="bfloat16")
    model.save_pretrained(half)
    processor.save_pretrained(half)
    out = merge_adapter(adapter, tmp_path / "kept", base=half)
    with safe_open(out / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    config = json.loads((out / "config.json").read_text())
    assert (config["dtype"], config["position_scheme"]) == ("bfloat16", "sequential")
    kept, _ = load_model(out, dtype="float32")
    for name, value in kept.state_dict().items():  # bfloat16 has 8 significant bits
        torch.testing.assert_close(value, exact.state_dict()[name], atol=4e-3, rtol=2**-7)
    out = merge_adapter(adapter, tmp_path / "cast", dtype="bfloat16")
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_errors_are_one_line(adapter, base, tmp_path, capsys):
    def fails(message, *argv):
        assert main(["merge", *map(str, argv)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    out = tmp_path / "out"
    fails("is not an adapter but a whole model", base, out)
    fails("absent does not exist", tmp_path / "absent", out)
    fails("is the adapter itself", adapter, adapter)
    fails("exists and is not an empty folder", adapter, base)
    fails(
        "which does not exist: give the base model's folder or Hub id with base / --base",
        adapter,
        out,
        "--base",
        tmp_path / "no",
    )
    config = json.loads((base / "config.json").read_text())
    quantised = config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (base / "config.json").write_text(json.dumps(quantised))
    fails("holds quantised weights", adapter, out)
    (base / "config.json").write_text(json.dumps(config))
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(weights[: len(weights) // 2])
    fails("the adapter cannot be loaded", adapter, out)
    assert not out.exists()


def test_weights_that_are_missing_or_not_finite_are_refused(adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if k != min(weights)}, path)
    with pytest.raises(ValueError, match=r"1 adapter weights do not fit the base, such as base_model\.model"):
        merge_adapter(adapter, tmp_path / "out")
    save_file(weights | {min(weights): torch.full_like(weights[min(weights)], torch.nan)}, path)
    with pytest.raises(ValueError, match="cannot be merged: NaNs"):
        merge_adapter(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_peft_says_what_to_install(adapter, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"an adapter needs peft: .*\[train\]"):
        merge_adapter(adapter, tmp_path / "out")
