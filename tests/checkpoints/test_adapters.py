"""Adapters trained with TRL load, stream and switch off; bad adapters are clear errors."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.adapters import read_adapter, save_adapter_files, switch_adapter
from livecc_hf.checkpoints.checkpoint import open_checkpoint
from livecc_hf.checkpoints.errors import ModelLoadError
from livecc_hf.checkpoints.loading import (
    load_model,
    load_model_and_processor,
    load_processor,
)
from livecc_hf.cli.main import main
from livecc_hf.modeling import LiveCCForConditionalGeneration
from livecc_hf.training.model.parts import lora_config, prepare_quantized, quantization_config

peft = pytest.importorskip("peft")


def train(model, processor, out, **options):
    """Train LoRA with TRL for a few steps on one turn of a video; return the `PeftModel`, saved as a folder."""
    from datasets import Dataset
    from trl import ModelConfig, SFTConfig, SFTTrainer

    parts = options.pop("parts", ["language_model"])
    base, inputs = model.name_or_path, turn_inputs(processor)
    batch = {**inputs, "labels": inputs["input_ids"], "attention_mask": torch.ones_like(inputs["input_ids"])}
    torch.manual_seed(2)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(out), max_steps=2, learning_rate=0.05, per_device_train_batch_size=1, report_to="none",
            use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_dict({"row": [0, 1]}),
        data_collator=lambda rows: dict(batch),
        processing_class=processor,
        peft_config=lora_config(model, ModelConfig(use_peft=True, **options), parts),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(out)
    save_adapter_files(out, model.config, processor, base)
    return trainer.model.eval()


@pytest.fixture(scope="session")
def base(published_checkpoint, tmp_path_factory):
    """A published LiveCC checkpoint, whose position scheme is `reference`."""
    return shutil.copytree(published_checkpoint, tmp_path_factory.mktemp("base") / "LiveCC-base")


@pytest.fixture(scope="session")
def trained(base, processor, tmp_path_factory):
    """An adapter folder, trained with scheme `sequential`, and the logits of the `PeftModel` after training."""
    folder = tmp_path_factory.mktemp("adapters") / "my-adapter"
    model, _ = load_model(base, position_scheme="sequential")
    options = {"lora_modules_to_save": ["merger"], "parts": ["vision", "language_model"]}
    model = train(model, processor, folder, **options)
    return folder, logits(model, processor)


@pytest.fixture
def adapter(trained, tmp_path):
    """A copy of the adapter that a test may change."""
    return shutil.copytree(trained[0], tmp_path / "adapter")


def turn_inputs(processor) -> dict[str, torch.Tensor]:
    """One turn of a video and a question."""
    frames = torch.randint(0, 255, (6, 3, 56, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    patches, grid = processor.video_processor.frames_to_patches(frames, do_resize=False)
    ids = torch.tensor([processor.turn_ids(0, 3, len(patches) // 4, "What?", is_first=True)])
    types = torch.tensor(processor.create_mm_token_type_ids(ids))
    return {"input_ids": ids, "mm_token_type_ids": types, "pixel_values_videos": patches, "video_grid_thw": grid}


def logits(model, processor) -> torch.Tensor:
    with torch.no_grad():
        return model(**turn_inputs(processor)).logits.float()


def test_loaded_adapter_equals_the_trained_model_and_switches_off(trained, base):
    folder, expected = trained
    model, processor, info = load_model_and_processor(folder)
    assert isinstance(model, LiveCCForConditionalGeneration)
    assert not model.training
    torch.testing.assert_close(logits(model, processor), expected, atol=1e-6, rtol=0)
    plain, _ = load_model(base, position_scheme="sequential")
    switch_adapter(model, on=False)
    off = logits(model, processor)
    torch.testing.assert_close(off, logits(plain, processor), atol=1e-6, rtol=0)
    assert (off - expected).abs().max() > 0.1  # the training changed the logits
    for on in (True, False, True):  # modules that were trained in full are switched too
        switch_adapter(model, on)
        torch.testing.assert_close(logits(model, processor), expected if on else off, atol=1e-6, rtol=0)
    assert (info.source, info.position_scheme) == (str(folder), "sequential")
    assert info.notes == [f"{folder}: adapter on base {base.resolve()}"]


def test_the_adapters_scheme_overrides_the_bases_and_the_callers_overrides_both(trained, base):
    assert open_checkpoint(base).config.position_scheme == "reference"
    assert open_checkpoint(trained[0]).config.position_scheme == "sequential"
    assert open_checkpoint(trained[0], "mrope").config.position_scheme == "mrope"


def test_an_adapter_without_a_scheme_uses_the_bases_with_a_note(adapter, base):
    (adapter / "config.json").unlink()
    _, info = load_model(adapter)
    assert info.position_scheme == "reference"
    assert "does not say in which position scheme" in info.notes[1]
    assert "assuming position scheme 'reference'" in info.notes[2]


def test_the_files_of_an_adapter(trained, base):
    folder, _ = trained
    info = read_adapter(folder)
    assert (info.base, info.base_revision, info.position_scheme) == (str(base.resolve()), None, "sequential")
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_livecc.LiveCCForConditionalGeneration"
    code = {path.name for path in (Path(__file__).parents[2] / "modeling").glob("*.py")} - {
        "__init__.py",
        "interfaces.py",
    }
    assert code <= {path.name for path in folder.iterdir()}
    card = (folder / "README.md").read_text()
    assert "livecc merge" in card
    assert "More Information Needed" not in card
    assert str(base.parent) not in card  # no local paths in published files


def test_a_users_own_card_is_kept_and_a_hub_base_is_named_with_its_revision(adapter, processor, base):
    config = open_checkpoint(base, "mrope").config
    (adapter / "README.md").write_text("mine")
    config.quantization_config = {"load_in_4bit": True}
    save_adapter_files(adapter, config, processor, "owner/base", "v2")
    info = read_adapter(adapter)
    assert (info.base, info.base_revision, info.position_scheme) == ("owner/base", "v2", "mrope")
    assert (adapter / "README.md").read_text() == "mine"
    assert "quantization_config" not in json.loads((adapter / "config.json").read_text())
    assert config.quantization_config  # the caller's config is not changed
    other_encoding = "für mich".encode("latin-1")
    (adapter / "README.md").write_bytes(other_encoding)
    save_adapter_files(adapter, config, processor, "owner/base", "v2", training={"steps": 2})
    assert (adapter / "README.md").read_bytes() == other_encoding
    (adapter / "README.md").unlink()
    save_adapter_files(adapter, config, processor, "owner/base", "v2")
    assert "base_model: owner/base\n" in (adapter / "README.md").read_text()


def test_an_adapter_in_the_hubs_cache(adapter, trained, base, tmp_path, monkeypatch):
    """Load it offline by its Hub id, as after a download."""
    commit = "0a1b2c3d4e" * 4
    snapshot = tmp_path / "hub/models--me--my-adapter/snapshots" / commit
    shutil.copytree(adapter, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    info = read_adapter("me/my-adapter")
    assert (info.base, info.position_scheme) == (str(base.resolve()), "sequential")
    model, processor, loaded = load_model_and_processor("me/my-adapter")
    assert (loaded.position_scheme, len(loaded.notes)) == ("sequential", 1)
    torch.testing.assert_close(logits(model, processor), trained[1], atol=1e-6, rtol=0)


def test_sources_without_an_adapter(base, tmp_path):
    for source in (base, tmp_path, tmp_path / "absent", "absent/"):
        assert read_adapter(source) is None
    with pytest.raises(ModelLoadError, match="nobody/no-such-model is not a local folder.*HF_HUB_OFFLINE"):
        read_adapter("nobody/no-such-model")


def test_commentate_takes_an_adapter_at_once(trained, base, reference_dir, capsys, tmp_path):
    folder, _ = trained
    run = ["commentate", str(reference_dir / "clip.mp4"), "--greedy", "--max-pixels", "50176", "--end", "5"]
    assert main([*run, "--model", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert f"adapter on base {base.resolve()}" in err
    assert main([*run, "--model", str(base), "--position-scheme", "sequential"]) == 0
    assert capsys.readouterr().out != out
    moved = shutil.move(shutil.copytree(base, tmp_path / "copy"), tmp_path / "moved-LiveCC")
    assert main([*run, "--model", str(folder), "--base", str(moved)]) == 0
    assert capsys.readouterr().out == out


def test_over_a_four_bit_base(processor, tmp_path):
    pytest.importorskip("bitsandbytes")
    from trl import ModelConfig

    tiny = bundled_model_path()
    quantization = quantization_config(ModelConfig(load_in_4bit=True, use_peft=True))
    model = LiveCCForConditionalGeneration.from_pretrained(tiny, quantization_config=quantization, dtype="float32")
    prepare_quantized(model)
    own = load_processor(tiny)
    expected = logits(train(model, own, tmp_path / "out"), own)
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    loaded, _, info = load_model_and_processor(tmp_path / "out", load_in_4bit=True)
    assert loaded.is_loaded_in_4bit
    assert info.position_scheme == "mrope"
    for name, parameter in loaded.named_parameters():
        if "lora_" in name:  # TRL stores them in bfloat16 on a quantised base
            parameter.data = parameter.data.bfloat16()
    torch.testing.assert_close(logits(loaded, own), expected, atol=1e-6, rtol=0)
    switch_adapter(loaded, on=False)
    assert (logits(loaded, own) - expected).abs().max() > 0.5
    segments = loaded.start_stream(own, do_sample=False).push(torch.zeros(6, 3, 56, 56, dtype=torch.uint8))
    assert len(segments) == 1


def test_over_a_four_bit_base_with_a_layer_in_full(processor, tmp_path):
    """The layer's place in the base stays unquantised, as in training: 4-bit weights have another shape."""
    pytest.importorskip("bitsandbytes")
    from trl import ModelConfig

    options = ModelConfig(
        use_peft=True, load_in_4bit=True, lora_target_modules=["q_proj"], lora_modules_to_save=["down_proj"]
    )
    tiny = bundled_model_path()
    model = LiveCCForConditionalGeneration.from_pretrained(
        tiny, quantization_config=quantization_config(options), dtype="float32"
    )
    prepare_quantized(model)
    wrapped = peft.get_peft_model(model, lora_config(model, options))
    full = wrapped.get_base_model().model.language_model.layers[0].mlp.down_proj.modules_to_save["default"].weight
    full.data.mul_(2)
    wrapped.save_pretrained(tmp_path / "out")
    own = load_processor(tiny)
    save_adapter_files(tmp_path / "out", model.config, own, tiny)
    loaded, _, _ = load_model_and_processor(tmp_path / "out", load_in_4bit=True)
    assert type(loaded.model.language_model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    torch.testing.assert_close(logits(loaded, own), logits(wrapped.get_base_model(), own), atol=1e-6, rtol=0)


def test_bad_adapters_are_one_clear_line(adapter, base, tmp_path, capsys):
    def fails(message, source=adapter, **options):
        with pytest.raises(ModelLoadError, match=message) as caught:
            load_model_and_processor(source, **options)
        assert "\n" not in str(caught.value)

    def names_as_base(name):
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(name)}))

    fails("is a whole model and not an adapter: leave out base / --base", source=base, base=base)
    fails("absent does not exist", source=tmp_path / "absent", base=base)
    fails(r"adapter is an adapter on .*absent, which does not exist: give.*base / --base", base=tmp_path / "absent")
    names_as_base(tmp_path / "gone")
    fails(r"adapter is an adapter on .*gone, which does not exist: .*base / --base")
    names_as_base("nobody/no-such-base")
    fails(r"adapter on nobody/no-such-base, which cannot be read: .*HF_HUB_OFFLINE.*base / --base")
    names_as_base("")
    fails("does not name its base model: give it with base / --base")
    other = shutil.copytree(adapter, tmp_path / "other")
    names_as_base(other)
    fails("its base .*other is an adapter too: merge that one first")
    fails("made for another base|damaged", base=bundled_model_path())
    names_as_base(base)
    weights = load_file(adapter / "adapter_model.safetensors")
    removed = min(weights)
    save_file({k: v for k, v in weights.items() if k != removed}, adapter / "adapter_model.safetensors")
    fails("1 adapter weights are missing, such as")
    save_file(
        {**weights, "base_model.model.model.extra.lora_A.weight": torch.zeros(2)}, adapter / "adapter_model.safetensors"
    )
    fails("1 adapter weights are unexpected, such as")
    (adapter / "adapter_model.safetensors").write_bytes(b"x" * 100)
    fails("the adapter cannot be loaded")
    (adapter / "adapter_config.json").write_text("{")
    fails("adapter_config.json cannot be read")
    assert main(["convert", str(other), str(tmp_path / "out")]) == 2
    assert "is an adapter, not a whole model: merge it first (livecc merge" in capsys.readouterr().err


def test_an_older_transformers_says_which_one_loads_whole_modules(adapter, monkeypatch):
    monkeypatch.setattr("transformers.__version__", "5.17.0")
    with pytest.raises(
        ModelLoadError, match=r"holds whole modules \(merger\), which transformers 5\.17\.0 cannot load: pip"
    ):
        load_model_and_processor(adapter)


def test_without_peft_says_what_to_install(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelLoadError, match=r"an adapter needs peft: .*install .*\[train\]"):
        load_model(trained[0])


@pytest.mark.slow  # a new process imports everything again
def test_the_cards_code_runs_without_this_package(trained, base, tmp_path, processor):
    """Run the code of `README.md` unchanged in a new process that cannot import livecc_hf."""
    folder, expected = trained
    card = (folder / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace("path/or/hub-id", str(folder)).replace("path/to/LiveCC-base", str(base))
    code = code.replace('"video.mp4"', "frames, do_sample=False")
    before = """
        import sys, torch
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split('.')[0] == 'livecc_hf': raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Blocked())
        frames = torch.zeros(8, 3, 56, 84, dtype=torch.uint8)
    """
    after = "print(type(model).__name__, model.config.position_scheme, segment.token_ids)"
    env = {
        "PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(before) + code + after],
        capture_output=True, text=True, timeout=120, env=env, cwd=tmp_path, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    model, _ = load_model(folder)
    *_, segment = model.stream_generate(processor, torch.zeros(8, 3, 56, 84, dtype=torch.uint8), do_sample=False)
    expected = f"LiveCCForConditionalGeneration sequential {segment.token_ids}"
    assert done.stdout.strip().splitlines()[-1] == expected


def test_an_adapter_that_is_saved_again_keeps_its_scheme_and_processor(trained, processor, tmp_path, monkeypatch):
    folder, expected = trained
    processor = load_processor(folder)
    processor.default_query = "Say what happens."
    processor.save_pretrained(folder_copy := shutil.copytree(folder, tmp_path / "own"))
    model, _, info = load_model_and_processor(folder_copy, device="cpu")
    assert info.position_scheme == "sequential"
    try:
        model.save_pretrained(tmp_path / "again")
    except ValueError as error:  # transformers 5.24 saves what `load_adapter` loaded with PEFT 0.22 only
        if "version of PEFT" not in str(error):
            raise
        pytest.skip(str(error))
    pushed = tmp_path / "pushed"

    def upload(self, working_dir, *args, **kwargs):
        shutil.copytree(working_dir, pushed)

    monkeypatch.setattr(type(model), "_upload_modified_files", upload)
    api = type("Api", (), {"create_repo": lambda self, repo_id, **kwargs: type("Repo", (), {"repo_id": repo_id})()})
    for module in ("transformers.utils.hub", "transformers.modeling_utils"):
        monkeypatch.setattr(f"{module}.hf_api", api)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *args, **kwargs: Card())
    model.save_pretrained(tmp_path / "third", push_to_hub=True, repo_id="somebody/adapter")
    for saved in (tmp_path / "again", tmp_path / "third", pushed):
        assert not list(saved.glob("model*.safetensors"))
        again, own, info = load_model_and_processor(saved, device="cpu")
        assert info.position_scheme == again.config.position_scheme == "sequential"
        assert own.default_query == "Say what happens."
        torch.testing.assert_close(logits(again, own), expected, atol=1e-4, rtol=0)


class Card:
    """A model card that is not fetched from the Hub."""

    def save(self, path):
        Path(path).write_text("# A card\n")


def test_a_card_says_that_auto_classes_do_not_load_the_folder(trained):
    from transformers import AutoModel

    assert (
        "`AutoModel.from_pretrained` and `pipeline` cannot load the repository itself"
        in (trained[0] / "README.md").read_text()
    )
    with pytest.raises(OSError, match="no file named model.safetensors"):
        AutoModel.from_pretrained(trained[0], trust_remote_code=True)
