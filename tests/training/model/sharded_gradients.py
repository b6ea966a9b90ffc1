"""Measures, in each of several processes, how far FSDP2's gradients are from the mean of the processes' own.

    torchrun --nproc-per-node 2 sharded_gradients.py OUTPUT_FILE TRAIN_ARGUMENT ...

Writes JSON: for each case the largest difference of each parameter's gradient, relative to the largest expected value,
with the trainer's loss ("ours") and with TRL's alone ("trl").
"""

import json
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
import yaml
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft import LoraConfig, get_peft_model
from torch.distributed.tensor import DTensor

from livecc_hf.training import trainer as trainer_module
from livecc_hf.training.options.recipe import parse
from livecc_hf.training.setup import build_trainer

LAUNCHER = Path(__file__).parents[3] / "recipes/accelerate/fsdp2.yaml"


def tie(model):
    model.lm_head.weight = model.get_input_embeddings().weight
    model.config.text_config.tie_word_embeddings = model.config.tie_word_embeddings = True
    return model


def adapt(model, **options):
    return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, **options))


# case: a change to the model, and the mesh's shape: replicating processes (if any), then sharding processes
CASES = {
    "full": (lambda model: model, (2,)),
    "tied": (tie, (2,)),
    "frozen head": (adapt, (2,)),
    "head beside an adapter": (partial(adapt, modules_to_save=["lm_head"]), (2,)),
    "replicated": (lambda model: model, (2, 1)),
}


def shard(model, mesh_shape: tuple[int, ...]) -> None:
    """Shards the model as accelerate does with the launcher's config. Its own state knows FSDP on accelerators only."""
    config = yaml.safe_load(LAUNCHER.read_text())["fsdp_config"]
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=config["fsdp_version"],
        auto_wrap_policy=config["fsdp_auto_wrap_policy"],
        transformer_cls_names_to_wrap=config["fsdp_transformer_layer_cls_to_wrap"].split(","),
        reshard_after_forward=config["fsdp_reshard_after_forward"],
        cpu_ram_efficient_loading=False,
    )
    names = ("replicate", "shard")[-len(mesh_shape) :]
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=dist.init_device_mesh("cpu", mesh_shape, mesh_dim_names=names),
        parallelism_config=SimpleNamespace(fsdp_dim_names=names),
        mixed_precision="no",
        is_main_process=dist.get_rank() == 0,
        device=torch.device("cpu"),
    )
    fsdp2_prepare_model(accelerator, model)


def gradients(trainer, model, batch) -> dict[str, torch.Tensor]:
    """The gradients of two batches with one backward pass each, as in accumulation, whole on each process."""
    model.zero_grad()
    for _ in range(2):
        trainer.compute_loss(model, dict(batch)).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: g.full_tensor() if isinstance(g, DTensor) else g.clone() for name, g in found.items()}


def differences(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    return {name: ((found[name] - g).abs().max() / g.abs().max()).item() for name, g in expected.items()}


def measure(arguments: list[str], change, mesh_shape: tuple[int, ...]) -> dict[str, dict[str, float]]:
    trainer = build_trainer(parse(arguments))
    batch = next(iter(trainer.get_train_dataloader()))  # each process gets a different batch
    model = trainer.model = change(trainer.model).train()
    expected = gradients(trainer, model, batch)
    for gradient in expected.values():
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()
    shard(model, mesh_shape)
    result = {"ours": differences(gradients(trainer, model, batch), expected)}
    changed = [name for name, module in model.named_modules() if "get_output_embeddings" in vars(module)]
    assert not changed, f"{changed} are not as they were"
    ours, trainer_module.reduce_head_gradient = trainer_module.reduce_head_gradient, lambda model: nullcontext()
    result["trl"] = differences(gradients(trainer, model, batch), expected)
    trainer_module.reduce_head_gradient = ours
    return result


if __name__ == "__main__":
    results = {case: measure(sys.argv[2:], *how) for case, how in CASES.items()}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))
    dist.destroy_process_group()
