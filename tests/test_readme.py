"""What the README claims is what was measured, and what it links to is there."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_numbers_of_livecc_tiny_are_those_measured():
    measured = json.loads((ROOT / "benchmarks/results/tiny_commentary.json").read_text())
    section = README.split("## livecc-tiny")[1].split("\n## ")[0]
    values = re.findall(r"\| ([0-9.]+) \| ([0-9.]*) ?\|$", section, flags=re.MULTILINE)
    names = ("recall", "precision", "silence", "blanked_recall", "real_time_factor")
    errors = (f"{measured['recall_se']:.3f}", f"{measured['precision_se']:.3f}", "", "", "")
    assert values == [(f"{measured[name]:.3f}", error) for name, error in zip(names, errors)]
    assert f"{measured['clips']} held-out clips" in section
    assert measured["hardware"] in section
    assert measured["targets_met"]


def test_links_and_paths_exist():
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", README)
    paths = re.findall(r"`((?:docs|examples|recipes|benchmarks|tests|modeling|src)/[^`\s]*)`", README)
    for path in [*links, *paths]:
        assert (ROOT / path).exists(), path
    assert links
    assert paths


def test_no_placeholder_is_left():
    assert "@@" not in README


def test_the_numbers_of_training_are_those_measured():
    section = README.split("## Fine-tune on your own videos")[1].split("\n## ")[0].replace("\n", " ")
    results = {name: json.loads((ROOT / f"benchmarks/results/{name}.json").read_text()) for name in MEASURED}
    decoding, narrator, interleaving = (results[name] for name in MEASURED)
    assert f"{decoding['seek']['clips_per_s_per_core']:.2f} clips" in section
    assert f"{decoding['ratio']:.1f} times as many" in section
    assert f"tells {narrator['adapter_on']['new_verbs']['recall']:.2f} of the events" in section
    assert f"the base tells {narrator['adapter_off']['old_verbs']['recall']:.2f} as before" in " ".join(section.split())
    ways = interleaving["ways"]
    assert f"{ways['interleaved, streamed']['recall_in_time']:.2f} of the events" in section
    assert f"against {ways['captioned, last 20 s every 20 s']['recall_in_time']:.2f} for" in section

    models = json.loads((ROOT / "benchmarks/results/training.json").read_text())["models"]
    ratios = [(models[name]["step_time_ratio"], models[name]["memory_ratio"]) for name in ("mid-size", "livecc-tiny")]
    flat = " ".join(section.split())
    assert f"takes {ratios[0][0]:.2f} of the step time and {ratios[0][1]:.3f} of the memory" in flat
    assert f"livecc-tiny {ratios[1][0]:.2f} of the time and {ratios[1][1]:.1f} of the memory" in flat


def test_the_numbers_of_data_production_are_those_measured():
    section = " ".join(README.split("## Make training data from videos")[1].split("\n## ")[0].split())
    measured = json.loads((ROOT / "benchmarks/results/data.json").read_text())
    pipeline = measured["pipeline"]
    assert f"became {pipeline['clips']:,} clips in {pipeline['cpu_s']:.1f} s of processor time" in section
    assert f"and {pipeline['peak_mb'] / 1000:.2f} GB of memory" in section
    assert f"made the local engine {measured['engines']['local_scaling']:.1f} times as fast" in section
    assert measured["hardware"] in section


def test_the_numbers_of_live_streams_are_those_measured():
    section = " ".join(README.split("## Live, and many at once")[1].split("\n## ")[0].split())
    streams, pool, decoding = (
        json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
        for name in ("streaming", "pool", "decoding_live")
    )
    tiny, middle = streams["models"]["livecc-tiny"], streams["models"]["mid-size"]
    assert tiny["same_tokens"]
    assert middle["same_tokens"]
    assert f"takes {tiny['engine_to_generate']:.2f} of the time" in section
    assert f"with livecc-tiny, {middle['engine_to_generate']:.2f} with a {middle['parameters'] / 1e6:.0f}M" in section
    assert f"there {middle['windowed_to_generate_last_turns']:.2f} in the last ten" in section
    assert f"say {pool['throughput']['8']['ratio']:.1f} times as much" in section
    assert f"{pool['live_streams_held']} live streams of livecc-tiny are held" in section
    files = decoding["files"]
    assert f"read at {files['h264_default']['only_needed']['times_real_time']:.0f} times real time" in section
    assert f"{files['h264_default']['wall_ratio']:.1f} times as fast" in section
    assert f"intra-only ones {files['h264_intra_only']['wall_ratio']:.1f} times" in section
    assert f"sixteen {pool['throughput']['16']['ratio']:.1f} times" in section
    for result in (streams, pool, decoding):
        assert result["hardware"] in section


MEASURED = ("decoding", "other_narrator", "interleaving")
