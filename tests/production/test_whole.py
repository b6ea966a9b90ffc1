"""End to end, as a user would: narrated videos, both pipelines, training on their datasets, and commentary."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from caption_samples import clock
from chat_server import serve_chat, verdict
from models import KEEP_NONSENSE, write_language_model, write_whisper
from runs import train_losses
from speech import needs_espeak, write_narrated_video

sys.path.insert(0, str(Path(__file__).parents[1]))
from media import write_video

from livecc_hf.assets import bundled_model_path
from livecc_hf.cli.main import main
from livecc_hf.evaluation.tiny.scoring import SpokenTurn, score_clip
from livecc_hf.production.schemas import words_array
from livecc_hf.tiny.narration import QUERY, Word, narrate
from livecc_hf.tiny.samples import FRAME_SIZE_PX, MOODS
from livecc_hf.tiny.world import simulate

RECIPES = Path(__file__).parents[2] / "recipes/data"
LENGTH_S = 40
SEEDS = {"good": 2, "better": 6, "foreign": 3}  # so few words of so few kinds: not all are found to be English
N_STEPS = 10


class World(NamedTuple):
    """Videos as `livecc data fetch` leaves them, and the words that are spoken in them.

    Attributes:
        folder: the videos with captions and metadata.
        words: of each video that is narrated.
        events: of the same.
    """

    folder: Path
    words: dict[str, list[Word]]
    events: dict[str, list]


def write_world(folder: Path) -> World:
    folder.mkdir()
    words, events = {}, {}
    for name, seed in SEEDS.items():
        scene = simulate(seed, LENGTH_S, MOODS["busy"])
        words[name], events[name] = narrate_from_whole_second(scene.events), scene.events
        write_narrated_video(folder / f"{name}.mkv", scene, words[name])
        (folder / f"{name}.en.vtt").write_text(webvtt(words[name]))
        write_metadata(folder, name, LENGTH_S)
    write_video(folder / "short.mp4")
    write_metadata(folder, "short", 3)
    return World(folder, words, events)


def narrate_from_whole_second(events: list) -> list[Word]:
    """The narration with its first sentence half a second earlier.

    A clip starts with its first word: then its turns end with the sentences, as in what the bundled model has learnt.
    """
    words = narrate(events, LENGTH_S)
    n_first = next(i for i, word in enumerate(words) if word[2].endswith(".")) + 1
    early = [(start_s - 0.5, end_s - 0.5, word) for start_s, end_s, word in words[:n_first]]
    return early + words[n_first:]


def webvtt(words: list[Word]) -> str:
    """Captions with a line for each sentence, whose words are equally long, so that their times are known."""
    cues, sentence = ["WEBVTT\n"], []
    for word in words:
        sentence.append(word)
        if word[2].endswith("."):
            text = " ".join(text for *_, text in sentence)
            cues.append(f"{clock(sentence[0][0])} --> {clock(sentence[-1][1])}\n{text}\n")
            sentence = []
    return "\n".join(cues)


def write_metadata(folder: Path, name: str, duration_s: float) -> None:
    info = {"id": name, "title": f"The {name} game", "duration": duration_s, "width": 480, "height": 480}
    (folder / f"{name}.info.json").write_text(json.dumps(info | {"language": "en", "categories": ["Gaming"]}))


def build(recipe: str, source: Path, out: Path, *options: str) -> Path:
    """Run the command on a recipe; returns the folder of the result."""
    config = str(RECIPES / f"{recipe}.yaml")
    assert main(["data", "build", "--config", config, "--input", str(source), "--out", str(out), *options]) == 0
    return out


def by_name(file: Path) -> dict[str, dict]:
    """Return the rows of a table by the name of their video."""
    return {Path(row["video"]).stem: row for row in pq.read_table(file).to_pylist()}


def reasons_of(out: Path) -> dict[str, tuple[str, str]]:
    return {name: (row["stage"], row["reason"]) for name, row in by_name(out / "dropped.parquet").items()}


def check_clip(row: dict, spoken: list[Word]) -> None:
    """Check that a clip has the words spoken in its time, at the right times (captions: to 0.1 s), and all scores."""
    words = row["words"]
    first = next(i for i, word in enumerate(spoken) if abs(word[0] - words[0]["start"]) < 0.06)
    expected = spoken[first : first + len(words)]
    assert len(words) >= 60
    assert [word["word"] for word in words] == [word for *_, word in expected]
    assert [word["start"] for word in words] == pytest.approx([start_s for start_s, *_ in expected], abs=0.06)
    assert row["video_start"] <= words[0]["start"] and words[-1]["end"] <= row["video_end"]
    assert row["text_loss"] > 0 and 0 <= row["p_talking_head"] < 0.3


def check_heard(words: list[dict], spoken: list[Word]) -> None:
    """Check that a Whisper with random weights gives nonsense words, in order and at times with speech."""
    times_s = np.array([(word["start_s"], word["end_s"]) for word in words])
    assert len(times_s) and times_s.min() > spoken[0][0] - 1 and times_s.max() < spoken[-1][1] + 2
    assert (np.diff(times_s[:, 0]) >= 0).all()


def write_heard(file: Path, videos: Path, spoken: dict[str, list[Word]]) -> Path:
    """Copy a table of videos, with the words that a trained Whisper would recognise."""
    table = pq.read_table(videos)
    words = words_array([spoken[Path(video).stem] for video in table["video"].to_pylist()])
    pq.write_table(table.set_column(table.schema.get_field_index("words"), "words", words), file)
    return file


def train(folder: Path, *datasets: Path) -> list[float]:
    """Run the command on datasets, from the bundled model; returns the loss of each step."""
    recipe = {
        "model_name_or_path": str(bundled_model_path()),
        # The videos were left where they are, beside the datasets.
        "data": [{"source": "dataset", "path": str(path), "media_root": str(folder)} for path in datasets],
        "train_parts": ["vision", "merger", "language_model"],
        "use_context": False,
        "min_pixels": FRAME_SIZE_PX**2,
        "max_pixels": FRAME_SIZE_PX**2,
        "optimizer": "trainer",
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 2,
        "bf16": False,
        "use_cpu": True,
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return train_losses(folder, recipe, N_STEPS)


@pytest.mark.slow
@needs_espeak
def test_narrated_videos_become_datasets_then_a_model_then_commentary(tmp_path, published_checkpoint, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    world = write_world(tmp_path / "videos")
    language_model = write_language_model(tmp_path / "lm", published_checkpoint)
    # The thresholds are the recipes', but for a world of few words and the loss of random weights.
    models = [f"text_loss.model={language_model}", "text_loss.max_loss=1000"]
    models.append(f"talking_head.model={published_checkpoint}")
    is_foreign = ("language", "other_language")

    captioned = build("pretrain", world.folder, tmp_path / "captioned", "captions.min_distinct_words=10", *models)
    assert reasons_of(captioned) == {"short": ("metadata", "too_short"), "foreign": is_foreign}
    clips = by_name(captioned / "dataset" / "data")
    assert set(clips) == {"good", "better"}
    for name, row in clips.items():
        check_clip(row, world.words[name])
        assert row["title"] == f"The {name} game"

    whisper = write_whisper(tmp_path / "whisper", tmp_path / "work")
    asr = [
        f"asr.model={whisper}",
        "asr.beam_size=1",
        "asr.cpu_threads=1",
        *(f"asr.{key}=null" for key in KEEP_NONSENSE),
    ]
    heard = build("sft", world.folder, tmp_path / "heard", "--stages", "metadata,category,asr", *asr)
    videos = by_name(heard / "videos.parquet")
    assert set(videos) == set(SEEDS)
    for name, row in videos.items():
        check_heard(row["words"], world.words[name])

    manifest = write_heard(tmp_path / "heard.parquet", heard / "videos.parquet", world.words)
    with serve_chat(lambda *_: verdict(QUERY)) as server:
        judge = [f"prompt.base_url={server.url}", f"prompt.cache={tmp_path / 'answers.sqlite'}"]
        stages = ["--stages", "language,sft_clips,text_loss,talking_head,prompt"]
        spoken = build("sft", manifest, tmp_path / "spoken", *stages, *models, *judge)
        assert len(server.requests) == 2
    assert reasons_of(spoken) == {"foreign": is_foreign}
    clips = by_name(spoken / "dataset" / "data")
    assert set(clips) == {"good", "better"}
    for name, row in clips.items():
        check_clip(row, world.words[name])
        assert row["query"] == QUERY

    # The bundled model knows this world: its loss is low only if every word meets the frames it was said to.
    losses = train(tmp_path, captioned / "dataset", spoken / "dataset")
    assert len(losses) == N_STEPS and max(losses) < 1

    said = tmp_path / "said.jsonl"
    video, model = str(world.folder / "good.mkv"), str(tmp_path / "model")
    assert main(["commentate", video, "--model", model, "--greedy", "--output", str(said)]) == 0
    turns = [json.loads(line) for line in said.read_text().splitlines()]
    score = score_clip([SpokenTurn(turn["end_s"], turn["text"]) for turn in turns], world.events["good"])
    assert score.recall > 0.4 and score.precision > 0.5
