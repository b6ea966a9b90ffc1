"""Make an animated picture of a commentary: the clip with the model's words over it.

    python examples/animate_demo.py docs/images/commentary.webp [--video FILE] [--model ID_OR_FOLDER] [--fps 6]

The model's words are drawn into a copy of the clip, as by `livecc commentate --overlay`. The copy is converted to an
animated WebP or GIF, depending on the output's suffix.
"""

import argparse
import tempfile
from pathlib import Path

import av
from PIL import Image

from livecc_hf import load_model_and_processor
from livecc_hf.assets import bundled_model_path, demo_clip_path
from livecc_hf.rendering.overlay import burn_captions


def pictures_of(video: Path, fps: float, width_px: int) -> list[Image.Image]:
    """Return `fps` pictures per second of a video, resized to `width_px`."""
    pictures: list[Image.Image] = []
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            if frame.time >= len(pictures) / fps:
                image = frame.to_image()
                size = width_px, round(image.height * width_px / image.width)
                pictures.append(image.resize(size, Image.Resampling.LANCZOS))
    return pictures


def animate(out: Path, video: Path, model_name: str | Path, fps: float = 6, width_px: int = 336) -> int:
    """Write the animation; return its size in bytes."""
    model, processor, _ = load_model_and_processor(model_name)
    with tempfile.TemporaryDirectory() as folder:
        copy = burn_captions(video, model.stream_generate(processor, str(video)), Path(folder) / "copy.mp4")
        first, *others = pictures_of(copy, fps, width_px)
    options = {"quality": 60, "method": 6} if out.suffix.lower() == ".webp" else {"optimize": True}
    first.save(out, save_all=True, append_images=others, duration=round(1000 / fps), loop=0, **options)
    return out.stat().st_size


def main() -> None:
    """Write the animation that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="file to write, .webp or .gif")
    parser.add_argument("--video", type=Path, default=demo_clip_path())
    parser.add_argument("--model", default=bundled_model_path())
    parser.add_argument("--fps", type=float, default=6)
    parser.add_argument("--width", type=int, default=336, help="in pixels; default: %(default)s")
    args = parser.parse_args()
    if args.out.suffix.lower() not in (".webp", ".gif"):
        parser.error(f"{args.out}: expected a name that ends in .webp or .gif")
    n_bytes = animate(args.out, args.video, args.model, args.fps, args.width)
    print(f"wrote {args.out}, {n_bytes / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
