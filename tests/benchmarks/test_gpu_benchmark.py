"""The benchmarks for GPUs run in small without one, and say what they measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from livecc_hf.checkpoints.shapes import shape_processor


@pytest.fixture()
def gpu(load):
    return load("gpu")


@pytest.fixture()
def training_gpu(load):
    return load("training_gpu")


@pytest.mark.parametrize("script", ["gpu", "decode_step", "training_gpu"])
def test_without_cuda_a_line_says_why_nothing_is_done(script, load, monkeypatch, capsys):
    module = load(script)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert module.main([]) == 1
    said = capsys.readouterr().out
    assert said.startswith("no CUDA device is available") and said.count("\n") == 1


def test_a_step_is_measured_both_ways(load, tmp_path):
    output = tmp_path / "step.json"
    assert load("decode_step").main(["--small", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert list(result["steps"]) == ["1", "3"]
    for step in (*(found[way] for found in result["steps"].values() for way in ("graph", "calls")), result["turn"]):
        assert 0 < step["median_ms"] <= step["most_ms"]
        assert sum(kernel["ms"] for kernel in step["kernels"]["longest"]) <= step["kernels"]["all_ms"] * 1.001
        assert step["kernels"]["longest"][0]["launches"] >= 1


def test_stages_are_told_as_they_end_and_cut_when_their_time_is_up(gpu, tmp_path, monkeypatch, capsys):
    child = tmp_path / "child"
    scripts = {"step": "echo done", "pool": "echo missed; exit 1", "training": f"sleep 100 & echo $! > {child}; wait"}
    monkeypatch.setattr(gpu, "commands", lambda names, *_: {name: ["sh", "-c", scripts[name]] for name in names})
    monkeypatch.setitem(gpu.STAGES, "training", 4)
    assert gpu.main(["--small", "--folder", str(tmp_path), "--stages", "step", "pool", "training"]) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())["stages"]
    assert [stage["exit_code"] for stage in summary.values()] == [0, 1, gpu.CUT_OFF]
    assert (tmp_path / "pool.log").read_text() == "missed\n"
    assert capsys.readouterr().out.splitlines()[0].endswith("done")
    left = Path(f"/proc/{child.read_text().strip()}/stat")  # what a stage has started ends with it
    assert not left.exists() or left.read_text().split()[2] == "Z"
    assert gpu.main(["--small", "--folder", str(tmp_path), "--stages", "step", "--minutes", "0"]) == 1


def test_every_stage_has_a_command_and_the_time_is_enough(gpu, tmp_path):
    commands = gpu.commands(list(gpu.STAGES), tmp_path, is_small=False)
    assert list(commands) == list(gpu.STAGES)
    assert any(part.endswith("test_decoding_step.py") for part in commands["checks"])
    assert commands["pool"][commands["pool"].index("--streams") + 1 :][:6] == ["1", "4", "8", "16", "24", "32"]
    for name in ("step", "streaming", "pool", "training"):
        assert str(tmp_path / f"{name}.json") in commands[name]


@pytest.mark.slow
def test_all_of_it_runs_in_small(gpu, tmp_path):
    assert gpu.main(["--small", "--folder", str(tmp_path), "--stages", "checks", "step"]) == 0
    assert "skipped" in (tmp_path / "checks.log").read_text() or torch.cuda.is_available()


def test_the_plain_loop_has_the_loss_of_the_full_computation(training_gpu):
    config = training_gpu.model_config(True, shape_processor())
    torch.manual_seed(0)
    model = training_gpu.random_bf16_model(config, "cpu").float()
    batch = training_gpu.row_batch(training_gpu.row_sample(270, config), config)
    with torch.no_grad():
        loss = model(**training_gpu.supervised_inputs(batch)).loss
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits
    full = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:])
    assert loss.item() == pytest.approx(full.item(), abs=1e-5)
    assert loss.item() > 5


MISSING_THERE = ("trl", "datasets", "av", "bitsandbytes")


@pytest.mark.parametrize("script", ["gpu/decode_step", "gpu/training_gpu", "streaming/streaming", "streaming/pool"])
def test_what_gpu_machines_lack_is_not_needed(script):
    """Images with PyTorch and transformers often have no more than peft and accelerate."""
    path = Path(__file__).parents[2] / "benchmarks" / f"{script}.py"
    code = (
        f"import sys, runpy; sys.modules |= dict.fromkeys({MISSING_THERE})\n"
        f"sys.path.insert(0, {str(path.parent)!r}); runpy.run_path({str(path)!r}, run_name='imported')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_row_is_filled_with_turns(training_gpu):
    inputs = training_gpu.row_sample(300, training_gpu.model_config(True, shape_processor())).model_inputs
    assert len(inputs["input_ids"]) == len(inputs["labels"]) == 2 * 130
    assert inputs["video_grid_thw"].tolist() == [[1, 20, 20], [1, 20, 20]]
    assert int((inputs["labels"] != -100).sum()) == 2 * training_gpu.SPOKEN_TOKENS
    with pytest.raises(ValueError, match="a row of 100 tokens is too short"):
        training_gpu.row_sample(100, training_gpu.model_config(True, shape_processor()))


@pytest.mark.slow
def test_training_runs_in_small(training_gpu, tmp_path):
    output = tmp_path / "gpu.json"
    assert training_gpu.main(["--small", "--steps", "8", "--output", str(output)]) == 0
    [result] = json.loads(output.read_text())["results"].values()
    assert result["tokens"] == 260 and result["losses"][-1] < result["losses"][0]
