"""Which parts train, LoRA targets, and quantised bases."""

import re
import sys

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig
from trl import ModelConfig

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.loading import load_model
from livecc_hf.modeling import LiveCCForConditionalGeneration
from livecc_hf.training.model.liger import kernels_for
from livecc_hf.training.model.parts import (
    PARTS,
    lora_config,
    part_of,
    prepare_quantized,
    quantization_config,
    set_trainable,
)
from livecc_hf.training.options.recipe import parse
from livecc_hf.training.setup import build_trainer


@pytest.fixture
def model(published_checkpoint):
    return load_model(published_checkpoint, position_scheme="mrope")[0]


@pytest.fixture
def tied(model):
    config = model.config
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    return LiveCCForConditionalGeneration(config)


@pytest.fixture
def quantized():
    """A function from TRL's options to livecc-tiny on a quantised base."""

    def load(**options):
        return LiveCCForConditionalGeneration.from_pretrained(
            bundled_model_path(), quantization_config=quantization_config(ModelConfig(use_peft=True, **options))
        )

    return load


def adapted(model, config) -> set[str]:
    """Names of the layers that peft adapts with this config."""
    from peft import get_peft_model

    wrapped = get_peft_model(model, config)
    return {
        name.removeprefix("base_model.model.") for name, module in wrapped.named_modules() if hasattr(module, "lora_A")
    }


def test_every_parameter_belongs_to_one_part(model):
    parts = [part_of(name) for name, _ in model.named_parameters()]
    assert set(parts) == set(PARTS)
    with pytest.raises(ValueError, match="'model.audio.proj' is not in any part"):
        part_of("model.audio.proj")


@pytest.mark.parametrize("parts", [["vision"], ["merger"], ["language_model"], ["merger", "language_model"], PARTS])
def test_exactly_the_named_parts_train(model, parts):
    model.lm_head.requires_grad_(False)  # what was there before does not count
    n_trainable = set_trainable(model, parts)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (part_of(name) in parts), name
    assert n_trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    in_tower = {name for name, p in model.model.visual.named_parameters() if p.requires_grad}
    assert any(name.startswith("merger.") for name in in_tower) == ("merger" in parts)
    assert any(name.startswith("blocks.") for name in in_tower) == ("vision" in parts)


@pytest.mark.parametrize(("parts", "trains"), [(["language_model"], True), (["vision", "merger"], False)])
def test_tied_embeddings_go_with_the_language_model(tied, parts, trains):
    set_trainable(tied, parts)
    assert tied.lm_head.weight is tied.model.language_model.embed_tokens.weight
    assert tied.lm_head.weight.requires_grad is trains


@pytest.mark.parametrize(
    ("parts", "message"), [([], "no part of the model is trained"), (["audio"], "'audio'.*merger")]
)
def test_wrong_parts_are_one_clear_error(model, parts, message):
    for call in (
        lambda: set_trainable(model, parts),
        lambda: lora_config(model, ModelConfig(), parts),
        lambda: quantization_config(ModelConfig(), parts),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("parts", "n_layers"),
    [(["language_model"], 3 * 7), (["vision"], 2 * 4), (["merger"], 2), (["vision", "language_model"], 8 + 21)],
)
@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_lora_is_on_every_linear_layer_of_the_parts_and_nowhere_else(model, parts, n_layers, targets):
    expected = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head" and part_of(name) in parts
    }
    assert len(expected) == n_layers
    assert adapted(model, lora_config(model, ModelConfig(lora_target_modules=targets), parts)) == expected


def test_the_regular_expression_is_short_enough_to_read(model):
    pattern = lora_config(model, ModelConfig()).target_modules
    assert pattern.count("|") == 6
    assert re.fullmatch(pattern, "model.language_model.layers.27.mlp.up_proj")  # of the 7B model as well
    assert not re.fullmatch(pattern, "model.visual.blocks.0.mlp.fc1")


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj"], {f"model.language_model.layers.{i}.self_attn.q_proj" for i in range(3)}),
        (["layers.1.mlp.up_proj", "layers.0.mlp.up_proj"],
         {f"model.language_model.layers.{i}.mlp.up_proj" for i in (0, 1)}),
        (r".*layers\.2\..*_proj", {f"model.language_model.layers.2.{x}" for x in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.up_proj", "mlp.gate_proj", "mlp.down_proj")}),
        (r".*attn\.(q_)?proj", {f"model.language_model.layers.{i}.self_attn.q_proj" for i in range(3)}),
    ],
)  # fmt: skip
def test_targets_are_chosen_inside_the_parts(model, targets, expected):
    assert adapted(model, lora_config(model, ModelConfig(lora_target_modules=targets))) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_target_modules": ["fc1"]}, "'fc1' matches no linear layer of language_model: expected.*q_proj"),
        ({"lora_target_modules": ["q_proj", "lm_head"]}, "'lm_head' matches no linear.*cannot be adapted"),
        ({"lora_target_modules": "(q_proj"}, "not a regular expression"),
        ({"lora_modules_to_save": ["head"]}, "'head' is not a module of the model"),
    ],
)
def test_wrong_targets_are_one_clear_error(model, options, message):
    with pytest.raises(ValueError, match=message):
        lora_config(model, ModelConfig(**options))


def test_the_recipes_options_reach_peft(model):
    options = {"lora_r": 4, "lora_alpha": 12, "lora_dropout": 0.2, "use_rslora": True, "use_dora": True}
    config = lora_config(model, ModelConfig(**options, lora_modules_to_save=["merger"]))
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora, config.use_dora) == (
        4,
        12,
        0.2,
        True,
        True,
    )
    assert (config.modules_to_save, config.task_type, config.ensure_weight_tying) == (["merger"], "CAUSAL_LM", False)


def test_lora_without_peft_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"LoRA needs peft: .*\[train\]"):
        lora_config(model, ModelConfig())


class TestQuantizedBase:
    def test_is_none_unless_asked_for(self):
        assert quantization_config(ModelConfig(use_peft=True)) is None

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"load_in_4bit": True}, ValueError, r"load_in_4bit is on without LoRA.*language_model.*use_peft=true"),
            ({"load_in_8bit": True}, ValueError, r"load_in_8bit is on without LoRA"),
        ],
    )
    def test_needs_lora(self, options, error, message):
        with pytest.raises(error, match=message):
            quantization_config(ModelConfig(**options))

    def test_four_and_eight_bit_exclude_each_other(self):
        options = ModelConfig(load_in_4bit=True, use_peft=True)
        options.load_in_8bit = True
        with pytest.raises(ValueError, match="both on: choose one"):
            quantization_config(options)

    def test_without_bitsandbytes_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "bitsandbytes", None)
        with pytest.raises(ImportError, match=r"load_in_4bit needs bitsandbytes: .*\[quantize\]"):
            quantization_config(ModelConfig(load_in_4bit=True, use_peft=True))

    def test_options_reach_bitsandbytes(self):
        options = {"load_in_4bit": True, "use_peft": True, "lora_modules_to_save": ["layers.0.mlp.up_proj"]}
        config = quantization_config(
            ModelConfig(**options, dtype="float16", bnb_4bit_quant_type="fp4", use_bnb_nested_quant=True)
        )
        assert isinstance(config, BitsAndBytesConfig)
        assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("fp4", True)
        assert config.bnb_4bit_compute_dtype == torch.float16
        assert config.llm_int8_skip_modules == ["model.visual", "lm_head", "layers.0.mlp.up_proj"]
        assert quantization_config(ModelConfig(**options)).bnb_4bit_compute_dtype == torch.bfloat16

    @pytest.mark.parametrize("bits", [4, 8])
    def test_only_the_language_model_is_quantised_and_trains_through_lora_alone(self, quantized, bits):
        pytest.importorskip("bitsandbytes")
        from bitsandbytes.nn import Linear4bit, Linear8bitLt
        from peft import get_peft_model

        options = {f"load_in_{bits}bit": True}
        model = quantized(**options)
        dtype = model.lm_head.weight.dtype
        prepare_quantized(model)
        kinds = {n: type(m) for n, m in model.named_modules() if isinstance(m, Linear4bit | Linear8bitLt)}
        assert set(kinds.values()) == {Linear4bit if bits == 4 else Linear8bitLt}
        assert len(kinds) == 4 * 7
        assert {part_of(name) for name in kinds} == {"language_model"}
        assert model.lm_head.weight.dtype == dtype  # not cast
        model = get_peft_model(model, lora_config(model, ModelConfig(use_peft=True, lora_dropout=0.0, **options)))
        ids = torch.arange(1, 12)[None]
        model(input_ids=ids, labels=ids).loss.backward()
        with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
        assert len(with_gradient) == 2 * 4 * 7
        assert all("lora_" in name for name in with_gradient)

    def test_layers_that_a_cpu_cannot_run_are_refused_before_the_first_step(self, published_checkpoint):
        pytest.importorskip("bitsandbytes")
        config = quantization_config(ModelConfig(load_in_4bit=True, use_peft=True))
        model = LiveCCForConditionalGeneration.from_pretrained(published_checkpoint, quantization_config=config)
        with pytest.raises(ValueError, match="my-base: 4-bit weights on a CPU.*multiple of 64 wide"):
            prepare_quantized(model, "my-base")


def test_the_mergers_of_several_depths_are_mergers():
    names = ("model.visual.merger.linear_fc1", "model.visual.deepstack_merger_list.2.norm")
    assert [part_of(name) for name in names] == ["merger"] * 2
    assert part_of("model.visual.blocks.3.mlp.linear_fc1") == "vision"


@pytest.mark.parametrize("model_type", ["qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"])
def test_liger_has_kernels_for_each_language_model(model_type):
    pytest.importorskip("liger_kernel")
    assert model_type.removesuffix("_text") in kernels_for(model_type).__name__
    with pytest.raises(ValueError, match="no kernels for gpt_0: turn it off"):
        kernels_for("gpt_0")


@pytest.mark.parametrize("quantised", [False, True], ids=["bfloat16", "4 bits"])
def test_a_module_that_trains_in_full_next_to_an_adapter_learns_from_small_updates(recipe, quantised):
    """In bfloat16, steps of 1e-6 leave all but the smallest weights as they are."""
    if quantised:
        pytest.importorskip("bitsandbytes")
    changes = {"use_peft": True, "lora_modules_to_save": ["lm_head"], "train_parts": ["language_model"], "max_steps": 1}
    changes |= {"dtype": "bfloat16", "bf16": True, "optimizer": "trainer", "learning_rate": 1e-6, "weight_decay": 0.0}
    trainer = build_trainer(parse(["--config", recipe(**changes, load_in_4bit=quantised)]))
    head = trainer.model.get_base_model().lm_head.modules_to_save["default"].weight
    before = head.detach().clone()
    trainer.train()
    assert (head != before).float().mean() > 0.95
    assert trainer.model.get_base_model().model.language_model.norm.weight.dtype == torch.bfloat16
