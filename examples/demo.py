"""The demonstration behind `make demo`: the bundled model comments on the bundled clip, live.

    python examples/demo.py [--fast] [--output FOLDER]

Plays a held-out clip at its own pace and prints the model's words next to the true events. Writes the commentary to
demo.vtt, and the frames with their words to contact-sheet.png.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from transformers.utils import logging as transformers_logging

from livecc_hf import load_model_and_processor
from livecc_hf.assets import bundled_model_path, demo_clip_path, demo_events_path
from livecc_hf.captions.writers import open_writer
from livecc_hf.rendering.contact_sheet import SheetCell, SheetLegend, contact_sheet
from livecc_hf.video.reader import iter_chunks

ROW = "{:>11}  {:<36}  {}"


def commentate(model, processor, clip: Path, events: list[dict], paced: bool):
    """Play the clip to the model; return the segments and a cell of the contact sheet for each."""
    stream = model.start_stream(processor)
    segments, cells, pending = [], [], list(events)
    started_s = time.monotonic()
    for chunk in iter_chunks(clip):
        seen_s = chunk.timestamps_s[-1]
        if paced:
            time.sleep(max(0.0, started_s + seen_s - time.monotonic()))
        for segment in stream.push(chunk.frames, chunk.timestamps_s):
            happened = " ".join(event["sentence"] for event in pending if event["time_s"] <= seen_s)
            pending = [event for event in pending if event["time_s"] > seen_s]
            label = f"{segment.start_s:.0f} to {segment.end_s:.0f} s"
            print(ROW.format(label, segment.text or "...", happened).rstrip(), flush=True)
            segments.append(segment)
            cells.append(SheetCell(chunk.frames[-1], seen_s, segment.text or "...", happened))
    return segments, cells


def main() -> None:
    """Comment on the bundled clip, and write the captions and a contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="run at the model's speed instead of the clip's")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for the files written")
    args = parser.parse_args()
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output {args.output}: this folder cannot be made ({error.strerror})")

    clip = demo_clip_path()
    events = json.loads(demo_events_path().read_text())["events"]
    transformers_logging.disable_progress_bar()
    print("livecc-tiny, a 1.4M-parameter model that knows moving coloured shapes only, watches a new clip.\n")
    model, processor, _ = load_model_and_processor(bundled_model_path(), device="cpu")
    print(ROW.format("video", "the model says", "what happened"))
    started_s = time.monotonic()
    segments, cells = commentate(model, processor, clip, events, paced=not args.fast)
    took_s = time.monotonic() - started_s

    with (args.output / "demo.vtt").open("w", encoding="utf-8") as file:
        writer = open_writer("vtt", file)
        for segment in segments:
            writer.write(segment)
    legend = SheetLegend(text="what the model says (...: nothing)", note="the true events so far")
    contact_sheet(cells, columns=6, legend=legend).save(args.output / "contact-sheet.png")
    print(
        f"\n{segments[-1].end_s:.0f} s of video in {took_s:.1f} s. Wrote {args.output}/demo.vtt and contact-sheet.png"
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
