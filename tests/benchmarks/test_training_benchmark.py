"""The training benchmarks measure what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks/training"


@pytest.fixture()
def gpu(load):
    return load("training_gpu")


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_both_ways_do_the_same_work(tmp_path):
    output = tmp_path / "training.json"
    done = run("training.py", "--small", "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    report = json.loads(output.read_text())
    result = report["models"]["small"]
    ours, other = result["ours"], result["straightforward"]
    assert ours["losses"] == pytest.approx(other["losses"], abs=1e-4)
    assert len(ours["losses"]) == 2
    assert ours["losses"][1] != ours["losses"][0]
    assert ours["rows_per_step"] == len(result["samples"]["packed_row_tokens"]) == 2
    assert other["rows_per_step"] == len(result["samples"]["sample_tokens"]) == 3
    assert sum(result["samples"]["packed_row_tokens"]) == result["samples"]["tokens_per_step"]
    assert min(ours["peak_above_loaded_mb"], other["peak_above_loaded_mb"]) > 0
    assert result["memory_ratio"] > 0
    assert report["hardware"]


def test_other_work_and_missed_targets_are_said(load):
    training = load("training")
    met = {"first_loss_difference": 1e-6, "memory_ratio": 0.3, "step_time_ratio": 0.6}
    case = training.CASES["mid-size"]
    assert [target["met"] for target in training.targets(case, met)] == [True] * 3
    missed = {"first_loss_difference": float("nan"), "memory_ratio": 0.34, "step_time_ratio": 0.67}
    assert [target["met"] for target in training.targets(case, missed)] == [False] * 3
    assert [target["met"] for target in training.targets(training.CASES["livecc-tiny"], missed)] == [False]


def test_the_gpu_benchmark_says_why_it_does_nothing(gpu, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["training_gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 0
    assert "no CUDA device" in capsys.readouterr().out


def test_the_plain_loop_has_the_loss_of_the_full_computation(gpu):
    from livecc_hf.data.batches.collator import CommentaryCollator

    config = gpu.model_config(small=True)
    torch.manual_seed(0)
    model = gpu.build_model(config, "cpu", "sdpa", four_bit=False).float()
    batch = CommentaryCollator(config, config.text_config.pad_token_id)([[gpu.row_sample(270, config)]])
    del batch["n_words"]
    with torch.no_grad():
        loss = model(**gpu.supervised_inputs(batch)).loss
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits
    full = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:])
    assert loss.item() == pytest.approx(full.item(), abs=1e-5)
    assert loss.item() > 5


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--plain-loop",)])
def test_the_gpu_benchmark_runs_without_a_gpu(options, tmp_path):
    pytest.importorskip("bitsandbytes")
    output = tmp_path / "gpu.json"
    done = run("training_gpu.py", "--small", "--steps", "1", "--output", str(output), *options)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    results = json.loads(output.read_text())["results"]
    assert [result["method"] for result in results] == ["lora", "qlora"]
    for result in results:
        assert result["steps_by"] == ("plain loop" if options else "LiveCCTrainer")
        assert result["losses"][-1] < result["losses"][0]


@pytest.mark.parametrize(
    ("device", "rate"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Unheard-of 7", None),
    ],
)
def test_peak_rates_are_found_by_name(gpu, device, rate):
    assert gpu.peak_tflops(device) == rate
