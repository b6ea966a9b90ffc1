"""Published checkpoints are loaded and converted; other sources are one-line errors."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLForConditionalGeneration

from livecc_hf.assets import demo_clip_path
from livecc_hf.checkpoints.checkpoint import open_checkpoint
from livecc_hf.checkpoints.convert import convert_checkpoint
from livecc_hf.checkpoints.errors import ModelLoadError
from livecc_hf.checkpoints.loading import load_model, load_model_and_processor, load_processor
from livecc_hf.modeling import LiveCCConfig, LiveCCForConditionalGeneration


@pytest.fixture
def named(published_checkpoint, tmp_path):
    """Return a function that copies the published checkpoint to a folder with a given name."""

    def copy(name):
        return shutil.copytree(published_checkpoint, tmp_path / name)

    return copy


def test_published_layout_loads_with_equal_logits(published_checkpoint, load_frames, processor, make_model):
    stock = Qwen2VLForConditionalGeneration.from_pretrained(published_checkpoint).eval()
    patches, grid = processor.video_processor.frames_to_patches(load_frames("live_cc")[:4], do_resize=False)
    ids = torch.tensor([processor.turn_ids(0, 3, len(patches) // 4, "What?", is_first=True)])
    inputs = {
        "input_ids": ids,
        "mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids(ids)),
        "pixel_values_videos": patches,
        "video_grid_thw": grid,
    }
    with torch.no_grad():
        expected, got = stock(**inputs).logits, make_model("mrope")(**inputs).logits
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_plain_generate_answers_about_images_as_qwen2_vl(published_checkpoint, make_model, processor):
    stock = Qwen2VLForConditionalGeneration.from_pretrained(published_checkpoint).eval()
    image = torch.randint(0, 255, (3, 90, 120), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(
        text=[text, text + "A"], images=[image, image], padding=True, padding_side="left", return_tensors="pt"
    )
    options = {"do_sample": False, "max_new_tokens": 6}
    assert torch.equal(make_model("mrope").generate(**inputs, **options), stock.generate(**inputs, **options))


@pytest.mark.parametrize(("folder", "scheme"), [("LiveCC-7B-Instruct", "reference"), ("Qwen2-VL-2B", "mrope")])
def test_a_published_folder_loads_with_a_note_on_assumptions(named, folder, scheme):
    _, processor, info = load_model_and_processor(named(folder))
    assert info.position_scheme == scheme
    assert len(info.notes) == 1
    assert f"assuming position scheme '{scheme}'" in info.notes[0]
    # The image limit of an old preprocessor file is not used for videos.
    assert processor.video_processor.size["longest_edge"] == 768 * 28 * 28


def test_convert_keeps_every_weight_and_shards(named, tmp_path, load_frames):
    source = named("my-LiveCC")
    out = convert_checkpoint(source, tmp_path / "out", max_shard_size="1MB")
    assert len(list(out.glob("*.safetensors"))) > 2
    old, info = load_model(source)
    model, _processor, converted = load_model_and_processor(out)
    assert (info.position_scheme, converted.position_scheme, converted.notes) == ("reference", "reference", [])
    assert all(torch.equal(model.state_dict()[k], v) for k, v in old.state_dict().items())
    frames = load_frames("live_cc")[:6]
    segments = [
        m.start_stream(load_processor(folder), do_sample=False, do_resize=False).push(frames)
        for m, folder in ((old, source), (model, out))
    ]
    assert segments[0] == segments[1]
    card = (out / "README.md").read_text()
    assert "\nlibrary_name: transformers\n" in card
    assert "`reference`" in card


def test_convert_needs_a_scheme_where_the_source_does_not_name_livecc(named, tmp_path):
    source = named("Qwen2-VL-7B")
    with pytest.raises(ValueError, match="give --position-scheme mrope"):
        convert_checkpoint(source, tmp_path / "out")
    out = convert_checkpoint(source, tmp_path / "out", position_scheme="sequential")
    assert json.loads((out / "config.json").read_text())["position_scheme"] == "sequential"
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        convert_checkpoint(source, out, position_scheme="mrope")
    again = convert_checkpoint(out, tmp_path / "again")
    assert json.loads((again / "config.json").read_text())["position_scheme"] == "sequential"


def test_name_or_path_inside_the_config_names_livecc_too(named, tmp_path):
    source = named("downloaded")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"_name_or_path": "chenjoya/LiveCC-7B-Base"}))
    out = convert_checkpoint(source, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["position_scheme"] == "reference"


def test_a_folder_of_the_hubs_cache_is_named_by_its_repository(published_checkpoint, tmp_path):
    snapshot = tmp_path / "models--chenjoya--LiveCC-7B-Base" / "snapshots" / "0a1b2c"
    shutil.copytree(published_checkpoint, snapshot)
    assert load_model(snapshot)[1].position_scheme == "reference"


def test_the_message_end_is_saved(named, tmp_path):
    out = convert_checkpoint(named("livecc"), tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["message_end_token_id"] == 1988


def test_loading_a_published_config_directly_says_what_is_assumed(published_checkpoint, caplog):
    from transformers.utils import logging

    logging.get_logger("livecc_hf").setLevel(logging.WARNING)
    with caplog.at_level("WARNING"):
        config = LiveCCConfig.from_pretrained(published_checkpoint)
    assert config.position_scheme == "mrope"
    assert "assuming 'mrope'" in caplog.text


def test_tied_embeddings_and_shards_of_a_published_checkpoint(published_checkpoint, tmp_path):
    config = Qwen2VLForConditionalGeneration.config_class.from_pretrained(published_checkpoint)
    config.tie_word_embeddings = True
    stock = Qwen2VLForConditionalGeneration(config).eval()
    source = shutil.copytree(published_checkpoint, tmp_path / "tied")
    (source / "model.safetensors").unlink()
    stock.save_pretrained(source, max_shard_size="1MB")
    assert len(list(source.glob("*.safetensors"))) > 1
    out = convert_checkpoint(source, tmp_path / "out", position_scheme="mrope")
    model, _ = load_model(out)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert all(torch.equal(model.state_dict()[k], v) for k, v in stock.state_dict().items())


def test_bad_sources_are_one_line_errors(named, tmp_path):
    def fails(source, message, **options):
        with pytest.raises(ModelLoadError, match=message) as caught:
            load_model_and_processor(source, **options)
        assert "\n" not in str(caught.value)

    fails(tmp_path / "absent", "absent does not exist: expected a folder or a Hub id")
    fails("absent/", "absent/ does not exist: expected a folder")
    fails("nobody/no-such-model", "not in the local cache, and HF_HUB_OFFLINE is set")
    (tmp_path / "file.bin").write_text("x")
    fails(tmp_path / "file.bin", "is a file: expected a model folder")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "holds no config.json")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    fails(other, "holds a model of type 'bert': .*expected one of qwen2_vl, qwen2_5_vl, qwen3_vl, or livecc")
    broken = named("broken-livecc")
    (broken / "config.json").write_text("{")
    fails(broken, "config.json cannot be read")
    cut = named("cut-livecc")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    fails(cut, r"weights cannot be loaded \(missing or damaged\?\)")
    (cut / "model.safetensors").unlink()
    fails(cut, "the weights cannot be loaded")
    indexed = named("indexed-livecc")
    (indexed / "model.safetensors").rename(indexed / "model-00001-of-00001.safetensors")
    (indexed / "model.safetensors.index.json").write_text("{}")
    fails(indexed, "weights cannot be loaded")
    (other / "config.json").write_text("[]")
    fails(other, "config.json cannot be read|holds a model of type None")
    part = named("part-livecc")
    tensors = load_file(part / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
    fails(part, "1 weights are missing, such as model.language_model.layers.1.mlp.up_proj.weight")
    whole = named("whole-livecc")
    fails(whole, "dtype 'float99' is unknown", dtype="float99")
    fails(whole, "device 'cuda:9' cannot be used", device="cuda:9")
    fails(whole, "position_scheme='spiral' is unknown", position_scheme="spiral")
    (whole / "tokenizer.json").unlink()
    (whole / "vocab.json").unlink()
    fails(whole, "tokenizer or processor files cannot be loaded")


@pytest.mark.slow
def test_convert_holds_the_weights_once(tmp_path, published_checkpoint):
    config = open_checkpoint(published_checkpoint, "mrope").config
    config.text_config.intermediate_size, config.text_config.num_hidden_layers = 40000, 30
    config.text_config.layer_types = ["full_attention"] * 30
    source = shutil.copytree(published_checkpoint, tmp_path / "big-livecc")
    (source / "model.safetensors").unlink()
    LiveCCForConditionalGeneration(config).save_pretrained(source, max_shard_size="100MB")
    weights = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    code = (
        "import sys; from livecc_hf import modeling; from livecc_hf.checkpoints import convert, loading\n"
        "def peak():  # of this process only; getrusage includes the parent's memory\n"
        "    status = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(line for line in status if line.startswith('VmHWM')).split()[1]) * 1024\n"
        "before = peak(); convert.convert_checkpoint(sys.argv[1], sys.argv[2], max_shard_size='100MB')\n"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, source, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < 1.5 * weights


def test_dtype_and_device_can_be_torch_objects(published_checkpoint):
    for dtype in (torch.bfloat16, "torch.bfloat16", "bfloat16"):
        model, _ = load_model(published_checkpoint, device=torch.device("cpu"), dtype=dtype)
        assert model.dtype == torch.bfloat16
        assert model.device == torch.device("cpu")
    for wrong in (torch.int8, 16, "int8", b"bfloat16"):
        with pytest.raises(ModelLoadError, match="dtype .* is unknown: expected float32, bfloat16 or float16"):
            load_model(published_checkpoint, device="cpu", dtype=wrong)


@pytest.mark.slow  # the Hub's client waits between attempts
def test_a_hub_that_cannot_be_reached_is_one_line_after_one_series_of_attempts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "livecc_hf.cli.main", "commentate", str(demo_clip_path()), "--model", "some/model"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("livecc: error: some/model cannot be fetched from the Hub: ")
    assert done.stderr.count("\n") == 1
    debugged = subprocess.run([*command, "--debug"], env=environment, capture_output=True, text=True, timeout=300)
    assert debugged.stderr.count("Retry 1/") == 1


def test_weights_that_do_not_fit_into_memory_are_not_called_damaged(named, monkeypatch):
    def out_of_memory(*_, **__):
        return torch.empty(2**50, dtype=torch.uint8)

    monkeypatch.setattr(LiveCCForConditionalGeneration, "from_pretrained", out_of_memory)
    with pytest.raises(ModelLoadError, match="do not fit into the memory of cpu: .*can't allocate memory") as caught:
        load_model_and_processor(named("large-livecc"))
    assert "damaged" not in str(caught.value)
