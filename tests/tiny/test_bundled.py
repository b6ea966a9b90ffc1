"""The model that ships with the package, and the demo's clip."""

import json
from pathlib import Path

import pytest

import livecc_hf.modeling
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.evaluation import score
from livecc_hf.evaluation.predictions import Header
from livecc_hf.evaluation.predictions.file import write_rows
from livecc_hf.evaluation.tiny.commentary import evaluate, held_out_seed, turns_of
from livecc_hf.evaluation.tiny.scoring import score_clip
from livecc_hf.tiny.scene import Event
from livecc_hf.tiny.world import simulate

ASSETS = Path(livecc_hf.__file__).parent / "assets"
UNPUBLISHED = {"__init__.py", "interfaces.py"}  # which a model's folder does not need


@pytest.fixture(scope="module")
def bundled():
    model, processor, _ = load_model_and_processor(ASSETS / "livecc-tiny", device="cpu")
    return model, processor


def test_is_small_and_decodes_greedily(bundled):
    model, _ = bundled
    assert (ASSETS / "livecc-tiny/model.safetensors").stat().st_size <= 4_000_000
    assert model.generation_config.do_sample is False
    assert model.generation_config.repetition_penalty == 1.0


def test_comments_on_clips_it_has_not_seen_and_is_looking(bundled, tmp_path):
    seen = evaluate(*bundled, n_clips=3, blank_too=True)
    assert seen.score.recall > 0.8
    assert seen.score.precision > 0.8
    assert seen.score.silence > 0.9
    assert seen.real_time_factor < 1
    assert seen.blanked.recall < 0.2
    write_rows(tmp_path / "said.jsonl", Header("commentary", suite="livecc-tiny", n_rows=3), seen.rows)
    (timing,) = score(tmp_path / "said.jsonl")
    assert timing.figure("speak precision").value > timing.figure("speak precision").floor
    assert timing.figure("onset error").value < timing.figure("onset error").floor / 2


def test_tells_most_of_the_demo_clip(bundled):
    model, processor = bundled
    truth = json.loads((ASSETS / "demo/events.json").read_text())
    events = [Event(**{k: v for k, v in event.items() if k != "sentence"}) for event in truth["events"]]
    assert events == simulate(truth["seed"], truth["duration_s"]).events
    segments = list(model.stream_generate(processor, ASSETS / "demo/clip.mp4"))
    assert segments[-1].end_s == truth["duration_s"]
    assert score_clip(turns_of(segments), events).recall > 0.7


def test_held_out_seeds_are_negative():
    assert all(held_out_seed(index) < 0 for index in range(3))


def test_the_folder_carries_the_projects_code():
    """Linked in the sources, real files in an installed copy."""
    folder, modeling = ASSETS / "livecc-tiny", Path(livecc_hf.modeling.__file__).parent
    published = {path.name: path.read_bytes() for path in modeling.glob("*.py") if path.name not in UNPUBLISHED}
    assert {path.name: path.read_bytes() for path in folder.glob("*.py")} == published
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert {reference.split(".")[0] + ".py" for reference in auto_map.values()} <= set(published)
