"""What training needs of a model holds on every backbone."""

import copy

import pytest
import torch
from backbones import BACKBONES, write_published
from torch.nn.functional import cross_entropy
from trl import ModelConfig

from livecc_hf.checkpoints.loading import load_model
from livecc_hf.data.batches.collator import IGNORE_INDEX, CommentaryCollator
from livecc_hf.data.samples.sample import Sample
from livecc_hf.training.model.packed_attention import packed_batch, sample_lengths, use_packed_attention
from livecc_hf.training.model.parts import PARTS, lora_config, part_of

PAD, VISION_START, VISION_END, IMAGE, VIDEO = 1986, 1995, 1996, 1998, 1999
PIXELS = ((IMAGE, "pixel_values", "image_grid_thw"), (VIDEO, "pixel_values_videos", "video_grid_thw"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A function from a backbone's name to a published checkpoint of it."""
    folder, made = tmp_path_factory.mktemp("published"), {}

    def make(name: str):
        if name not in made:
            made[name] = write_published(name, folder / name)
        return made[name]

    return make


@pytest.fixture(params=BACKBONES)
def model(request, published):
    return load_model(published(request.param), position_scheme="mrope")[0]


def make_sample(config, *parts, seed: int) -> Sample:
    """A sample of words (their number) and pictures (their grid): t of 1 is an image, more a video."""
    rng = torch.Generator().manual_seed(seed)
    vision = config.vision_config
    n_values = 3 * vision.temporal_patch_size * vision.patch_size**2
    ids, supervised, pixels, grids = [], [], {IMAGE: [], VIDEO: []}, {IMAGE: [], VIDEO: []}
    for part in parts:
        if isinstance(part, int):
            new, keep = torch.randint(0, 1900, (part,), generator=rng).tolist(), True
        else:
            token, keep = (IMAGE if part[0] == 1 else VIDEO), False
            blocks = config.find_backbone().block_grids(part) if token == VIDEO else [part]
            new = [i for t, h, w in blocks for i in (VISION_START, *[token] * (t * h * w // 4), VISION_END, 7)]
            pixels[token].append(torch.randn(part[0] * part[1] * part[2], n_values, generator=rng))
            grids[token].append(part)
        ids += new
        supervised += [keep] * len(new)
    ids = torch.tensor(ids)
    inputs = {
        "input_ids": ids,
        "labels": ids.where(torch.tensor(supervised), IGNORE_INDEX),
        "mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long(),
    }
    for token, name, grid in (
        (IMAGE, "pixel_values", "image_grid_thw"),
        (VIDEO, "pixel_values_videos", "video_grid_thw"),
    ):
        if grids[token]:
            inputs |= {name: torch.cat(pixels[token]), grid: torch.tensor(grids[token])}
    return Sample(inputs, n_words=int(sum(supervised)))


def samples_of(config) -> list[Sample]:
    return [
        make_sample(config, (3, 4, 4), 5, (2, 4, 4), 3, seed=1),
        make_sample(config, 9, seed=2),
        make_sample(config, (1, 4, 8), 4, (4, 4, 4), 2, seed=3),
    ]


def model_inputs(batch: dict) -> dict:
    return {name: value for name, value in batch.items() if name not in ("labels", "n_words")}


def test_a_frozen_tower_is_not_differentiated_with_activation_checkpointing(model):
    """As every recipe with LoRA asks for it."""
    model.requires_grad_(False).train()
    last = model.model.language_model.layers[-1].mlp.down_proj.weight.requires_grad_(True)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    features = []
    model.model.visual.register_forward_hook(lambda module, inputs, output: features.append(output.pooler_output))
    sample = make_sample(model.config, (2, 4, 4), 5, seed=1)
    inputs = {name: value[None] if value.ndim == 1 else value for name, value in sample.model_inputs.items()}
    model(**inputs, use_cache=False).loss.backward()
    assert last.grad.abs().sum() > 0  # reentrant checkpoints need inputs that ask for a gradient
    assert not features[0].requires_grad
    model.model.visual.requires_grad_(True)
    model.enable_input_require_grads()
    model(**inputs, use_cache=False).loss.backward()
    assert any(parameter.grad is not None for parameter in model.model.visual.parameters())


@pytest.mark.parametrize("images_as_videos", [False, True])
def test_packed_equals_separate(model, images_as_videos):
    model = copy.deepcopy(model)
    samples = samples_of(model.config)
    separate = []
    for sample in samples:
        inputs = {k: v[None] if v.ndim == 1 else v for k, v in sample.model_inputs.items() if k != "labels"}
        with torch.no_grad():
            separate.append(model(**inputs, use_cache=False).logits[0])
    use_packed_attention(model)
    batch = CommentaryCollator(model.config, PAD, images_as_videos=images_as_videos)([samples])
    inputs = model_inputs(batch)
    with torch.no_grad(), packed_batch(inputs):
        packed = model(**inputs, **sample_lengths(model, inputs), use_cache=False).logits[0]
    assert (packed - torch.cat(separate)).abs().max() < 1e-5


def test_the_loss_at_supervised_positions_is_the_whole_one(model):
    sample = samples_of(model.config)[0]
    batch = CommentaryCollator(model.config, PAD)([[sample]])
    inputs = model_inputs(batch)
    labels = batch["labels"][:, 1:]
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    whole = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)
    kept = torch.zeros_like(batch["labels"], dtype=torch.bool)
    kept[:, :-1] = labels != IGNORE_INDEX
    hidden = model.model(**inputs, use_cache=False, kept_positions=kept).last_hidden_state[0]
    lean = cross_entropy(model.lm_head(hidden), labels[labels != IGNORE_INDEX])
    assert abs(lean - whole) < 1e-6
    gradients = [
        torch.autograd.grad(loss, model.model.language_model.layers[0].mlp.up_proj.weight) for loss in (whole, lean)
    ]
    assert (gradients[0][0] - gradients[1][0]).abs().max() < 1e-6


def test_every_parameter_belongs_to_a_part_and_lora_finds_its_layers(model):
    from peft import get_peft_model

    assert {part_of(name) for name, _ in model.named_parameters()} == set(PARTS)
    for parts in (["language_model"], ["vision", "merger"]):
        wrapped = get_peft_model(copy.deepcopy(model), lora_config(model, ModelConfig(use_peft=True), parts))
        adapted = [
            name.removeprefix("base_model.model.") for name, m in wrapped.named_modules() if hasattr(m, "lora_A")
        ]
        assert {part_of(name) for name in adapted} == set(parts)


def test_an_adapter_that_is_merged_says_the_same(model):
    from peft import get_peft_model

    model = copy.deepcopy(model)
    inputs = model_inputs(CommentaryCollator(model.config, PAD)([samples_of(model.config)[:1]]))
    with torch.no_grad():
        plain = model(**inputs, use_cache=False).logits
    wrapped = get_peft_model(model, lora_config(model, ModelConfig(use_peft=True))).eval()
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        adapted = wrapped(**inputs, use_cache=False).logits
        merged = wrapped.merge_and_unload(safe_merge=True)(**inputs, use_cache=False).logits
    assert (adapted - merged).abs().max() < 1e-4
    assert (adapted - plain).abs().max() > 1e-2
