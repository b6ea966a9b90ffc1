"""Every recipe parses, says how to run it, and means what its header says; so do the launcher configs."""

import os
import re
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from transformers.models.qwen2_vl import modeling_qwen2_vl

from livecc_hf.data.dataset import SOURCES, parse_entry
from livecc_hf.data.sources.narrated import DatasetEntry, FolderEntry, JsonlEntry
from livecc_hf.data.sources.tiny import TinyEntry
from livecc_hf.modeling.grammar import PIXELS_PER_TOKEN, VIDEO_TOKEN_BUDGET
from livecc_hf.training.options.recipe import Recipe, parse

ROOT = Path(__file__).parents[3]
LAUNCHERS = sorted((ROOT / "recipes/accelerate").glob("*.yaml"))
NOT_TRAINING = [*LAUNCHERS, *(ROOT / "recipes/data").glob("*.yaml"), *(ROOT / "recipes/serve").glob("*.yaml")]
RECIPES = sorted(set((ROOT / "recipes").rglob("*.yaml")) - set(NOT_TRAINING))
ENTRIES = {"jsonl": JsonlEntry, "dataset": DatasetEntry, "folder": FolderEntry, "tiny": TinyEntry}
EXPECTED = {
    "livecc-tiny": {"1-lists", "2-narration", "3-polish"},
    "livecc-7b": {"pretrain", "sft", "sft_lora", "sft_qlora"},
    "qwen2-vl-2b": {"sft", "sft_lora"},
    "qwen2.5-vl-7b": {"sft", "sft_lora", "sft_qlora"},
    "qwen3-vl-4b": {"sft", "sft_lora", "sft_qlora"},
    "qwen3-vl-2b": {"sft", "sft_lora"},
    "own-videos": {"lora", "tiny-cpu"},
}
SFT_MIX = [
    "live_whisperx_526k_with_seeks.jsonl",
    "llava_ov_single_image_text_mix_with_seeks.jsonl",
    "llava_ov_multi_image_with_seeks.jsonl",
    "llava_hound_video_with_seeks.jsonl",
    "llava_video_178k_with_seeks.jsonl",
]
# Text tokens of a turn: its time, the template, a second of speech; Qwen3-VL adds a second timestamp.
TURN_TOKENS = {"qwen3": 40, "": 30}
PIXELS_A_TOKEN = {"qwen3": 32 * 32, "": PIXELS_PER_TOKEN}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "recipes"))


def header_of(path: Path) -> str:
    return "\n".join(line for line in path.read_text().split("\n\n")[0].splitlines() if line.startswith("#"))


def parse_here(arguments: list[str]) -> Recipe:
    """Parse as on a machine with a GPU; without one, bf16 is refused unless use_cpu is on."""
    return parse([*arguments, "use_cpu=true"])


def parsed(name: str) -> Recipe:
    return parse_here(["--config", str(ROOT / "recipes" / name)])


@dataclass
class Command:
    """A command of a header: what it launches with, and what the training script is given."""

    launcher: list[str]
    arguments: list[str]


def commands_of(path: Path) -> list[Command]:
    """The training commands of a header, their lines joined."""
    text = re.sub(r"\\\n#", "", header_of(path))
    found = []
    for line in text.splitlines():
        line = line.lstrip("# ").split("  # ")[0]
        launcher, _, arguments = line.partition(" --config ")
        words = [word for word in launcher.split() if not re.match("[A-Z_]+=", word)]
        if words[:2] in (["livecc", "train"], ["accelerate", "launch"]) or words[:1] == ["torchrun"]:
            found.append(Command(words, ["--config", *arguments.split()]))
    return found


def test_all_recipes_are_there():
    for folder, names in EXPECTED.items():
        assert names <= {path.stem for path in RECIPES if path.parent.name == folder}
    assert {path.stem for path in LAUNCHERS} == {"single_gpu", "multi_gpu", "fsdp2", "zero2", "zero3"}


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_every_recipe_parses_and_so_do_its_data_entries(path):
    recipe = parse_here(["--config", str(path)])
    assert recipe.model.model_name_or_path
    assert recipe.training.output_dir.startswith("runs/")
    assert recipe.notes == []  # each option has an effect
    entries = [dict(entry) for entry in recipe.data]
    assert entries
    for entry in entries:
        source = entry.pop("source")
        assert source in SOURCES
        assert entry.pop("weight", 1) > 0
        parse_entry(ENTRIES[source], entry, source)


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_samples_of_every_recipe_can_be_looked_at_without_a_gpu(path):
    recipe = parse(["--config", str(path), "inspect=4"])
    assert (recipe.ours.inspect, recipe.training.device.type) == (4, "cpu")


@pytest.mark.parametrize("path", [*RECIPES, *LAUNCHERS, ROOT / "recipes/accelerate/two_nodes.sh"], ids=name_of)
def test_every_header_says_command_hardware_memory_and_time(path):
    header = header_of(path)
    assert name_of(path) in header
    for word in ("Hardware: ", "Memory", "ime: "):
        assert word in header, f"the header says nothing about {word!r}"
    if path in RECIPES:
        assert re.search(r"\d GB", header)
        assert re.search(r"\d+ (minutes?|hours?|days?|H100 hours)", header)
        assert "livecc-tiny" in header or re.search(r"estimated, not\s+(# )?measured", header)


@pytest.mark.parametrize("path", RECIPES + LAUNCHERS, ids=name_of)
def test_the_commands_of_a_header_parse(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = commands_of(path)
    assert commands
    for command in commands:
        recipe = parse_here(command.arguments)
        assert path in LAUNCHERS or command.arguments[1] == f"recipes/{name_of(path)}"
        if command.launcher[0] == "accelerate":
            args = launch_command_parser().parse_args([*command.launcher[2:], *command.arguments])
            assert args.module and args.training_script == "livecc_hf.training.script"
            assert args.training_script_args == command.arguments
            assert Path(args.config_file).is_file()
            assert recipe.ours.data


def test_the_published_runs_are_reproduced():
    for name, learning_rate, use_context, n_gpus in (("pretrain", 2e-5, True, 8), ("sft", 1e-5, False, 8)):
        recipe = parsed(f"livecc-7b/{name}.yaml")
        ours, training = recipe.ours, recipe.training
        assert training.per_device_train_batch_size * training.gradient_accumulation_steps * n_gpus == 512
        assert not recipe.packing  # a row is a sample
        assert training.learning_rate == learning_rate
        assert (training.lr_scheduler_type, training.warmup_steps, training.num_train_epochs) == ("cosine", 0.03, 1)
        assert (training.weight_decay, training.bf16, training.activation_checkpointing) == (0, True, True)
        assert ours.train_parts == ["language_model"]
        assert ours.use_context is use_context
        assert (ours.max_frames, ours.min_pixels, ours.max_pixels) == (480, 100 * PIXELS_PER_TOKEN, None)
        assert training.max_length == VIDEO_TOKEN_BUDGET + 8192
        assert not recipe.model.use_peft


def test_the_sft_mix_is_the_published_one_concatenated():
    entries = parsed("livecc-7b/sft.yaml").data
    assert [Path(entry["path"]).name for entry in entries] == SFT_MIX
    assert not any("weight" in entry for entry in entries)
    pretrain = parsed("livecc-7b/pretrain.yaml").data
    assert [Path(entry["path"]).name for entry in pretrain] == ["live_cc_5m_with_seeks.jsonl"]


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name != "livecc-tiny"], ids=name_of)
def test_released_livecc_weights_train_in_the_scheme_they_know_all_others_in_mrope(path):
    recipe = parse_here(["--config", str(path)])
    expected = "sequential" if recipe.model.model_name_or_path.startswith("chenjoya/LiveCC") else "mrope"
    assert recipe.ours.position_scheme == expected


def test_fine_tuning_goes_on_from_pre_training():
    assert (
        parsed("livecc-7b/sft.yaml").model.model_name_or_path == parsed("livecc-7b/pretrain.yaml").training.output_dir
    )


@pytest.mark.parametrize("path", [path for path in RECIPES if "lora" in path.stem], ids=name_of)
def test_the_longest_clip_of_an_adapter_recipe_fits_its_row(path):
    recipe = parse_here(["--config", str(path)])
    ours, training = recipe.ours, recipe.training
    assert recipe.model.use_peft and recipe.packing
    assert recipe.model.dtype == "bfloat16"
    assert (recipe.model.load_in_4bit, recipe.model.use_bnb_nested_quant) == (("qlora" in path.stem),) * 2
    assert ours.held_out > 0 and training.eval_strategy != "no"
    pairs, family = ours.max_frames // 2, "qwen3" if path.parent.name.startswith("qwen3") else ""
    n_tokens = pairs * (ours.max_pixels // PIXELS_A_TOKEN[family]) + (pairs - 2) * TURN_TOKENS[family]
    assert 0.9 * training.max_length < n_tokens <= training.max_length
    for entry in recipe.data:
        assert entry["source"] != "folder" or entry["max_clip_s"] * 2 <= ours.max_frames


def test_clips_of_own_videos_fit_their_videos_and_the_training():
    """A video as short as the shortest clip is kept, and no clip is longer than what the model is shown of it."""
    from livecc_hf.production.options import load_options

    stages = load_options(ROOT / "recipes/data/my_videos.yaml").stages
    clips, videos, recipe = stages["sft_clips"], stages["metadata"], parsed("own-videos/lora.yaml")
    assert videos["min_duration_s"] == clips["min_s"] < clips["max_s"] < videos["max_duration_s"]
    assert clips["max_s"] == recipe.ours.max_frames / 2 == recipe.data[0]["max_clip_s"]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launcher_configs_are_what_accelerate_takes(path):
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "bf16"
    assert config.num_machines == 1
    kind = {"single_gpu": "NO", "multi_gpu": "MULTI_GPU", "fsdp2": "FSDP"}.get(path.stem, "DEEPSPEED")
    assert config.distributed_type.value == kind
    # Keys under fsdp_config and deepspeed_config that are not options of `accelerate launch` are dropped silently.
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= known


def test_every_process_count_gives_the_batch_of_512():
    for path in LAUNCHERS:
        if path.stem in ("fsdp2", "zero2", "zero3"):
            assert load_config_from_file(str(path)).num_processes * 64 == 512


def test_fsdp2_wraps_layers_that_exist_and_saves_what_resumes():
    config = load_config_from_file(str(ROOT / "recipes/accelerate/fsdp2.yaml")).fsdp_config
    assert config["fsdp_version"] == 2
    for name in config["fsdp_transformer_layer_cls_to_wrap"].split(","):
        assert hasattr(modeling_qwen2_vl, name)
    # With sharded state the trainer writes no model folder.
    assert config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    # The recipe's own checkpointing and FSDP's exclude each other.
    assert config["fsdp_activation_checkpointing"] is False


def test_zero_stages():
    for stage in (2, 3):
        config = load_config_from_file(str(ROOT / f"recipes/accelerate/zero{stage}.yaml")).deepspeed_config
        assert config["zero_stage"] == stage
        # Or no model folder is written at the end.
        assert stage == 2 or config["zero3_save_16bit_model"] is True


def test_two_nodes_launch_half_a_run_each(tmp_path):
    fake = tmp_path / "accelerate"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    script = ROOT / "recipes/accelerate/two_nodes.sh"
    header = re.sub(r"\\\n#", "", header_of(script))
    line = next(line for line in header.splitlines() if "two_nodes.sh 1 " in line).lstrip("# ").split()
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    arguments = done.stdout.split()
    args = launch_command_parser().parse_args(arguments[1:])
    assert (args.num_machines, args.machine_rank, args.num_processes) == (2, 1, 16)
    assert (args.main_process_ip, args.main_process_port) == ("10.0.0.1", 29500)
    assert (ROOT / args.config_file).is_file()
    recipe = parse_here([str(ROOT / a) if a.startswith("recipes/") else a for a in args.training_script_args])
    assert recipe.training.gradient_accumulation_steps * 16 == 512
    assert subprocess.run([script], capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_accelerate_accepts_the_launch(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    args = launch_command_parser().parse_args(["--config_file", str(path), "-m", "livecc_hf.training.script"])
    args, _, _ = _validate_launch_command(args)
    assert args.use_deepspeed is ("zero" in path.stem)
    assert args.use_fsdp is (path.stem == "fsdp2")
    assert args.multi_gpu is (path.stem == "multi_gpu")


def test_recipes_hold_each_key_once():
    class Strict(yaml.SafeLoader):
        pass

    def no_duplicates(loader, node):
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key comes twice: {keys}"
        return loader.construct_mapping(node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, no_duplicates)
    for path in RECIPES + LAUNCHERS:
        yaml.load(path.read_text(), Strict)


def test_the_documentation_names_every_option_of_ours():
    from livecc_hf.training.options.arguments import LiveCCArguments

    text = (ROOT / "docs/training.md").read_text()
    assert not [option.name for option in fields(LiveCCArguments) if f"`{option.name}`" not in text]
    for source, entry in ENTRIES.items():
        if source != "tiny":
            assert f"`{source}`" in text
            assert not [key.name for key in fields(entry) if f"`{key.name}`" not in text]
    for path in RECIPES:
        assert path.parent.name in text
