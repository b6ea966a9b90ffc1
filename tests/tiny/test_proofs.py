"""The two proofs of the method: captioning as a training task and used live, and the documents' numbers."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

import livecc_hf
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.data.sources.tiny import TinyEntry, TinyItem, TinySource
from livecc_hf.data.unusable import UnusableSample
from livecc_hf.evaluation.tiny import baselines
from livecc_hf.evaluation.tiny.scoring import score_clip
from livecc_hf.tiny.samples import cut_window, narration_clip
from livecc_hf.tiny.world import simulate

ROOT = Path(__file__).parents[2]
BUNDLED = Path(livecc_hf.__file__).parent / "assets/livecc-tiny"


@pytest.fixture(scope="module")
def bundled():
    return load_model_and_processor(BUNDLED, device="cpu")[:2]


@pytest.fixture(scope="module")
def interleaving():
    """benchmarks/quality/interleaving.py as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks/quality"))
    try:
        spec = importlib.util.spec_from_file_location("interleaving", ROOT / "benchmarks/quality/interleaving.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["interleaving"] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "benchmarks/quality"))


def supervised(sample, processor) -> str:
    labels = sample.model_inputs["labels"]
    return processor.tokenizer.decode(labels[labels != -100])


def test_a_caption_holds_the_words_of_the_narration_after_all_of_its_frames(bundled):
    _, processor = bundled
    caption = TinyItem("caption", 5, 10, "busy").encode(processor, EncodeOptions())
    inputs = caption.model_inputs
    words = [word for *_, word in narration_clip(5, 10, "busy").words]
    assert words
    assert supervised(caption, processor) == " ".join(words) + " ...<|im_end|>"
    assert caption.n_words == len(words)
    assert inputs["video_grid_thw"].tolist() == [[10, 6, 6]]
    is_video = inputs["mm_token_type_ids"] == 2
    assert is_video.sum() * 4 == len(inputs["pixel_values_videos"])
    assert is_video.nonzero().max() < (inputs["labels"] != -100).nonzero().min()


def test_both_ways_to_train_show_the_same_pictures(bundled):
    _, processor = bundled
    options = EncodeOptions(keep_trailing_silence=True)
    narrated, caption = (
        TinyItem(task, 5, 10, "busy").encode(processor, options).model_inputs for task in ("narrate", "caption")
    )
    assert torch.equal(narrated["pixel_values_videos"], caption["pixel_values_videos"])


def test_consecutive_windows_hold_each_word_once(bundled):
    clip = narration_clip(5, 10, "busy")
    windows = {}
    for seed in range(200):
        window = cut_window(clip, 2, seed)
        windows[window.timestamps_s[0]] = window
        assert [len(window.frames), window.timestamps_s[-1]] == [4, window.timestamps_s[0] + 1.5]
    assert sorted(windows) == list(range(9))
    heard = [word for start in range(0, 10, 2) for word in windows[start].words]
    assert heard == [word for word in clip.words if word[1] <= clip.timestamps_s[-1]]
    assert (windows[4].frames == clip.frames[8:12]).all()


def test_a_windows_caption_is_shorter_than_its_clip(bundled):
    item = TinySource().open({"samples": 1, "task": "caption", "length": [10, 10], "window_s": 4}, 0)[0]
    assert item.encode(bundled[1], EncodeOptions()).model_inputs["video_grid_thw"].tolist() == [[4, 6, 6]]


def test_a_caption_that_does_not_fit_is_unusable(bundled):
    with pytest.raises(UnusableSample, match="max_length=20"):
        TinyItem("caption", 5, 10, "busy").encode(bundled[1], EncodeOptions(max_tokens=20))


def test_a_recipe_chooses_the_narrator(bundled):
    _, processor = bundled
    entry = {"samples": 1, "length": [10, 10], "moods": ["busy"]}
    plain, other = (TinySource().open(entry | {"narrator": name}, 0)[0] for name in ("plain", "other"))
    texts = [supervised(item.encode(processor, EncodeOptions()), processor) for item in (plain, other)]
    assert texts[0] != texts[1]
    assert TinySource().open(entry, 0)[0] == plain


def test_unknown_narrators_and_tasks_are_errors():
    with pytest.raises(ValueError, match="'loud'.*plain, other"):
        TinyEntry(samples=1, narrator="loud")
    with pytest.raises(ValueError, match="'talk'.*list, narrate, caption"):
        TinyEntry(samples=1, task="talk")


@pytest.mark.parametrize("keys", [{"task": "narrate", "window_s": 4}, {"task": "caption", "window_s": 5}])
def test_a_window_is_part_of_a_captioned_clip(keys):
    with pytest.raises(ValueError, match=f"window_s is {keys['window_s']}.*1 to 4"):
        TinyEntry(samples=1, length=(4, 7), **keys)


def test_a_caption_model_used_live_speaks_at_its_windows_ends(bundled):
    frames = torch.from_numpy(narration_clip(5, 10, "busy").frames)
    turns = baselines.caption_turns(*bundled, frames, window_s=4, every_s=4)
    assert [turn.seen_s for turn in turns] == [3.5, 7.5]


def test_overlapping_windows_repeat_nothing(bundled, monkeypatch):
    said = iter(["Red ball moves.", "Red ball moves. Red ball stops.", "Red ball stops. Red ball stops.", ""])
    monkeypatch.setattr(baselines, "caption", lambda *_: next(said))
    turns = baselines.caption_turns(*bundled, torch.zeros(14, 3, 84, 84), window_s=4, every_s=1)
    assert [turn.text for turn in turns] == ["Red ball moves.", "Red ball stops.", "Red ball stops.", ""]


def test_the_narrator_is_the_best_there_is():
    events = simulate(-1, 20).events
    score = score_clip(baselines.narrator_turns(events), events)
    assert (score.recall, score.precision) == (1.0, 1.0)


def test_the_two_runs_differ_in_the_task_alone(interleaving):
    narrate, caption = (interleaving.recipe(Path("a"), Path("b"), name, 9600) for name in ("interleaved", "captioned"))
    assert sum(entry["samples"] for entry in narrate["data"]) == 9600
    for entry in narrate["data"] + caption["data"]:
        del entry["task"]
    assert narrate == caption


def test_the_other_narrator_was_learned_and_the_base_kept():
    result = json.loads((ROOT / "benchmarks/results/other_narrator.json").read_text())
    assert result["targets_met"]
    assert result["adapter_off"]["old_verbs"] == result["base"]
