"""End to end with real speech recognition: videos without captions become a dataset, a model and commentary.

No word is given beforehand: espeak-ng speaks, Whisper tiny.en listens.
"""

import difflib
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from face_detectors import YuNetLayout, write_detector
from real_weights import LIGHT_ASD, needs_whisper, whisper_folder
from runs import train_losses
from speech import RATE_HZ, needs_espeak, speak_timed, write_scene
from talking_videos import Face, write_talking_video

from livecc_hf.cli.main import main
from livecc_hf.production.stages.active_speaker.networks import LightAsd
from livecc_hf.tiny.samples import MOODS
from livecc_hf.tiny.world import simulate

RECIPES = Path(__file__).parents[2] / "recipes"
LENGTH_S = 40
# Varied ones, and without purple, which the made-up detector would take for the mark of a face.
SEEDS = {"first": 384, "second": 128}
N_STEPS = 10
# Each event in two ways: what repeats itself as livecc-tiny's narrator does, Whisper's rules take for a loop.
TOLD = {
    "appears": ("Suddenly there is a {colour} {shape} in the picture.", "Where did that {colour} {shape} come from?"),
    "enters": ("From the side comes a {colour} {shape}.", "Here is a new one, it is a {colour} {shape}."),
    "moves": ("Now the {colour} {shape} begins to move.", "Off it goes, the {colour} {shape}, and it is quite fast."),
    "stops": ("The {colour} {shape} stops and waits.", "That was enough for the {colour} {shape}, it stands still."),
    "turns": ("The {colour} {shape} changes its direction.", "And that is a turn by the {colour} {shape}."),
    "bounces": ("The {colour} {shape} hits the wall and comes back.", "No way out for the {colour} {shape}."),
    "hits": (
        "There is a crash, the {colour} {shape} has hit the other.",
        "Watch out! The {colour} {shape} was too close.",
    ),
    "leaves": ("The {colour} {shape} has left the picture.", "Good bye, {colour} {shape}, we will miss you."),
    "disappears": ("We can not see the {colour} {shape} any more.", "The {colour} {shape} is gone for good."),
    "changes": ("Look, the {shape} is {colour} now.", "All at once the {shape} has become {colour}."),
}
ABOUT_MYSELF = (
    "Hello and welcome to my kitchen. I have been cooking for ten years, and today I want to tell you about my life. "
    "My mother was a cook, and her mother was a cook as well. When I was a child we lived in a small house by the sea. "
    "Every day my father went out to catch fish, and we ate it in the evening. I still think of that time very often."
)


class Told(NamedTuple):
    """Attributes:
    samples: int16, mono, 16 kHz.
    starts: `(seconds, word)`.
    """

    samples: np.ndarray
    starts: list[tuple[float, str]]


def tell(events: list) -> Told:
    """Speak about the newest event whenever the previous sentence has ended."""
    sound, starts, free_s = np.zeros(LENGTH_S * RATE_HZ, np.int16), [], 0.0
    n_told = Counter()
    for event, after in zip(events, [*events[1:], None]):
        if after is not None and after.time_s < free_s:
            continue
        begin_s = max(event.time_s, free_s)
        sentence = TOLD[event.verb][n_told[event.verb] % 2]
        n_told[event.verb] += 1
        spoken, words = speak_timed(sentence.format(colour=event.colour, shape=event.shape), 160)
        begin = round(begin_s * RATE_HZ)
        if begin + len(spoken) > len(sound):
            break
        sound[begin : begin + len(spoken)] = spoken
        starts += [(begin_s + start_s, word) for start_s, word in words]
        free_s = begin_s + len(spoken) / RATE_HZ
    return Told(sound, starts)


def write_videos(folder: Path) -> dict[str, Told]:
    """Write two videos of moving shapes and one of a talking face; return the narration of the shapes."""
    folder.mkdir()
    told = {}
    for name, seed in SEEDS.items():
        scene = simulate(seed, LENGTH_S, MOODS["busy"])
        told[name] = tell(scene.events)
        write_scene(folder / f"{name}.mp4", scene, told[name].samples)
    spoken, _ = speak_timed(ABOUT_MYSELF, 150)
    write_talking_video(folder / "myself.mkv", spoken, [Face(is_moved=True)], len(spoken) / RATE_HZ)
    return told


def speaker_models(folder: Path) -> list[str]:
    """Return the options of active_speaker: published weights, or random weights and options that keep all clips."""
    detector = write_detector(folder / "faces.onnx", YuNetLayout())
    options = [f"active_speaker.detector={detector}", "active_speaker.window_s=2.0", "active_speaker.device=cpu"]
    if LIGHT_ASD is not None:
        return [*options, f"active_speaker.model={LIGHT_ASD}"]
    torch.manual_seed(5)
    torch.save(LightAsd().state_dict(), folder / "light.model")
    return [*options, f"active_speaker.model={folder / 'light.model'}", "active_speaker.max_ratio=1.0"]


def build(recipe: str, source: Path, out: Path, *options: str) -> dict[str, list[dict]]:
    """Run the command on a recipe; return the clips of each video."""
    config = str(RECIPES / "data" / f"{recipe}.yaml")
    assert main(["data", "build", "--config", config, "--input", str(source), "--out", str(out), *options]) == 0
    found: dict[str, list[dict]] = {}
    for row in pq.read_table(out / "dataset" / "data").to_pylist():
        # In a dataset's folder names have an ending that tells them apart.
        name = Path(row["video"]).stem.partition("-")[0]
        found.setdefault(name, []).append(row)
    return found


def start_errors_s(told: Told, clips: list[dict]) -> np.ndarray:
    """Return the absolute error of each recognised word's start, in seconds."""
    heard = [(word["start"], word["word"]) for clip in clips for word in clip["words"]]
    said, found = ([text.strip(".,!?").lower() for _, text in words] for words in (told.starts, heard))
    blocks = difflib.SequenceMatcher(None, said, found, autojunk=False).get_matching_blocks()
    pairs = [(told.starts[a + i][0], heard[b + i][0]) for a, b, size in blocks for i in range(size)]
    return np.array([found_s - start_s for start_s, found_s in pairs])


def train(folder: Path, dataset: Path) -> list[float]:
    """Run the recipe for a CPU on a dataset; return the loss of each step."""
    recipe = yaml.safe_load((RECIPES / "own-videos/tiny-cpu.yaml").read_text())
    recipe |= {
        "data": [{"source": "dataset", "path": str(dataset), "media_root": str(folder)}],
        "held_out": 0,
        "eval_strategy": "no",
        "per_device_train_batch_size": 2,
    }
    return train_losses(folder, recipe, N_STEPS)


@pytest.mark.slow
@needs_espeak
@needs_whisper
def test_videos_with_sound_alone_become_a_dataset_then_a_model_then_commentary(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    told = write_videos(tmp_path / "videos")
    asr = [f"asr.model={whisper_folder()}", "asr.device=cpu", "asr.compute_type=int8", "asr.cpu_threads=1"]
    heard = build("my_videos", tmp_path / "videos", tmp_path / "heard", *asr, "metadata.min_side_px=100")
    assert set(heard) == {"first", "second", "myself"}
    for name, truth in told.items():
        errors_s = np.abs(start_errors_s(truth, heard[name]))
        assert len(errors_s) >= 0.7 * len(truth.starts)
        assert np.median(errors_s) <= 0.3

    options = ["--stages", "active_speaker", *speaker_models(tmp_path)]
    seen = build("sft", tmp_path / "heard/dataset/data", tmp_path / "seen", *options)
    # Random weights find speakers anywhere; the published ones see who talks, and that shapes do not.
    assert set(seen) == {"first", "second"} | (set() if LIGHT_ASD is not None else {"myself"})
    assert all(clip["speaker_ratio"] == 0 for name in told for clip in seen[name])

    losses = train(tmp_path, tmp_path / "seen/dataset")
    assert len(losses) == N_STEPS and max(losses[-3:]) < min(losses[:3])

    said = tmp_path / "said.jsonl"
    video, model = str(tmp_path / "videos/first.mp4"), str(tmp_path / "model")
    assert main(["commentate", video, "--model", model, "--greedy", "--output", str(said)]) == 0
    turns = [json.loads(line) for line in said.read_text().splitlines()]
    assert [turn["end_s"] for turn in turns] == sorted(turn["end_s"] for turn in turns)
    assert turns[-1]["end_s"] <= LENGTH_S + 1 and sum(len(turn["text"].split()) for turn in turns) >= 10
