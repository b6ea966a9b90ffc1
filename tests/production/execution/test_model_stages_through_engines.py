"""Every stage with a model or an endpoint gives the same result in both engines as in a direct call."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from chat_server import serve_chat, verdict
from face_detectors import YuNetLayout, write_detector
from models import KEEP_NONSENSE, write_language_model, write_whisper
from speech import needs_espeak, write_narrated_video

from livecc_hf.production.build import build
from livecc_hf.production.inputs.videos import open_input
from livecc_hf.production.options import BuildOptions
from livecc_hf.production.stages.active_speaker.networks import LightAsd
from livecc_hf.production.stages.registry import make_stage
from livecc_hf.tiny.narration import narrate
from livecc_hf.tiny.samples import MOODS
from livecc_hf.tiny.world import simulate

LENGTH_S = 16
ALL = ("category", "asr", "pretrain_clips", "text_loss", "talking_head", "active_speaker")
WITH_ASR = ("category", "asr", "pretrain_clips")  # PyTorch takes its time to load in each process
SCORES = ("text_loss", "p_talking_head", "speaker_ratio")
_STORE = 80 * 1024 * 1024


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Videos with words, and with speech only; one of another category, and a file that is not a video."""
    folder = tmp_path_factory.mktemp("videos")
    scene = simulate(6, LENGTH_S, MOODS["busy"])
    words = narrate(scene.events, LENGTH_S)
    write_narrated_video(folder / "narrated.mkv", scene, words, size_px=168)
    (folder / "broken.mkv").write_bytes(b"no video at all" * 50)
    rows = [
        {"id": "captioned", "video": "narrated.mkv", "words": words},
        {"id": "spoken", "video": "narrated.mkv"},
        {"id": "music", "video": "narrated.mkv", "category": "Music"},
        {"id": "broken", "video": "broken.mkv"},
        {"id": "captioned but broken", "video": "broken.mkv", "words": words},
    ]
    common = {"category": "Gaming", "title": "A game", "duration_s": LENGTH_S}
    (folder / "videos.jsonl").write_text("".join(json.dumps(common | row) + "\n" for row in rows))
    return folder / "videos.jsonl"


@pytest.fixture(scope="module")
def stages(tmp_path_factory, published_checkpoint) -> dict[str, dict]:
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("models")
    whisper = write_whisper(folder / "whisper", folder / "work")
    language_model = write_language_model(folder / "lm", published_checkpoint)
    torch.save(LightAsd().state_dict(), folder / "asd.model")
    detector = write_detector(folder / "faces.onnx", YuNetLayout())
    cpu = {"device": "cpu"}
    return {
        "category": {},
        "asr": {"model": str(whisper), "beam_size": 1, "cpu_threads": 1, **KEEP_NONSENSE, **cpu},
        # What a Whisper of random weights hears is cut into clips, too.
        "pretrain_clips": {"min_s": 2.0, "max_gap_s": 60.0, "min_words_per_s": 0.01, "max_words_per_s": 1000.0},
        "text_loss": {"model": str(language_model), "min_loss": -1.0, "max_loss": 1e9, **cpu},
        "talking_head": {"model": str(published_checkpoint), "max_probability": 1.0, **cpu},
        "active_speaker": {"model": str(folder / "asd.model"), "detector": str(detector), "window_s": 1.0, **cpu},
    }


@pytest.fixture
def use_engine():
    """Return a function that prepares an engine."""
    with pytest.MonkeyPatch.context() as patch:
        stop = []

        def use(engine: str) -> None:
            if engine == "ray":
                ray = pytest.importorskip("ray")
                stop.append(ray.shutdown)
                patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
                quiet = {"include_dashboard": False, "log_to_driver": False}
                ray.init("local", num_cpus=2, object_store_memory=_STORE, **quiet)

        yield use
        for function in stop:
            function()


def answer(_, body):
    """Return a query for each clip, by its words."""
    spoken = body["messages"][-1]["content"].partition("Speech:\n")[2]
    return verdict(f"Comment on {len(spoken.split())} words.")


def called_directly(manifest: Path, stages: dict[str, dict]) -> tuple[list[dict], list[dict]]:
    source = open_input(manifest, unit_videos=100)
    [unit] = source.units()
    rows, _ = source.read(unit)
    dropped = []
    for name, options in stages.items():
        result = make_stage(name, options)(rows)
        rows = result.kept
        dropped += result.dropped.to_pylist()
    return rows.to_pylist(), dropped


def by_id(rows: list[dict]) -> dict[str, dict]:
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def without(rows: list[dict], *names: str) -> dict[str, dict]:
    return by_id([{key: value for key, value in row.items() if key not in names} for row in rows])


@needs_espeak
@pytest.mark.parametrize(
    ("engine", "names"),
    [
        ("local", WITH_ASR),
        ("ray", WITH_ASR),
        pytest.param("local", ALL, marks=pytest.mark.slow),
        pytest.param("ray", ALL, marks=pytest.mark.slow),
    ],
    ids=["local-asr", "ray-asr", "local", "ray"],
)
def test_an_engine_makes_what_the_stages_make(manifest, stages, engine, names, use_engine, tmp_path):
    use_engine(engine)
    stages = {name: stages[name] for name in names}
    with serve_chat(answer) as server:
        prompt = {"model": "judge", "base_url": server.url}
        expected, expected_dropped = called_directly(manifest, stages | {"prompt": prompt})
        prompt["cache"] = str(tmp_path / "answers.sqlite")
        options = BuildOptions(
            input=str(manifest),
            out=str(tmp_path / "out"),
            stages=stages | {"prompt": prompt},
            engine=engine,
            unit_videos=2,
            workers=1,
        )
        result = build(options, say=lambda line: None)
    units = sorted((result.out / "units").glob("*/clips.parquet"))
    clips = [row for path in units for row in pq.read_table(path).to_pylist()]
    dropped = pq.read_table(result.out / "dropped.parquet").to_pylist()

    assert len(units) == 3
    assert without(clips, *SCORES) == without(expected, *SCORES)
    assert {"captioned", "spoken"} <= {row["id"].partition("#")[0] for row in clips}
    for name in SCORES:
        scores, wanted = ({key: row[name] for key, row in by_id(rows).items()} for rows in (clips, expected))
        assert [score is None for score in scores.values()] == [names is not ALL] * len(scores)
        assert scores == pytest.approx(wanted, abs=1e-4)
    assert by_id(dropped) == by_id(expected_dropped)
    reasons = {(row["id"].partition("#")[0], row["stage"], row["reason"]) for row in dropped}
    expected_reasons = {("music", "category", "other_category"), ("broken", "asr", "error")}
    if names is ALL:
        expected_reasons.add(("captioned but broken", "talking_head", "error"))
    assert reasons == expected_reasons
    assert {item.name for item in result.stats if item.errors} == {stage for _, stage, why in reasons if why == "error"}
