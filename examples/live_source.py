"""Comment on a live source.

    python examples/live_source.py SOURCE [MODEL]

SOURCE is a camera (camera:0), a URL (rtsp://..., rtmp://..., https://.../live.m3u8), - for standard input, or a file.
The default MODEL is the bundled livecc-tiny, which only knows moving coloured shapes.
"""

import sys

from livecc_hf import load_model_and_processor
from livecc_hf.assets import bundled_model_path
from livecc_hf.sources import SourceError, open_source

if len(sys.argv) not in (2, 3):
    raise SystemExit("usage: python examples/live_source.py SOURCE [MODEL]")
try:
    source = open_source(sys.argv[1], on_message=print, stall_s=10, max_reconnects=8)  # nothing is read yet
    model, processor, _ = load_model_and_processor(sys.argv[2] if len(sys.argv) > 2 else bundled_model_path())
except (OSError, ValueError) as error:  # missing file or model, unknown scheme
    raise SystemExit(f"error: {error}") from None
stream = model.start_stream(processor)


def show(segment, lag_s=None):
    """Print a segment, and how late it came in seconds, if known."""
    late = "" if lag_s is None else f"  [{lag_s:.1f} s behind]"
    print(f"{segment.start_s:6.1f} s  {segment.text or '(silence)'}{late}", flush=True)


with source:
    try:
        for chunk in source:  # two frames: one second of video
            for segment in stream.push(chunk.frames, chunk.timestamps_s):
                show(segment, source.note_lag(chunk))
        print("The stream has ended.")
    except (SourceError, ValueError) as error:  # cannot be opened or read, or reconnecting failed
        print(f"The stream failed: {error}")
    except KeyboardInterrupt:  # Ctrl-C, the way to end a camera
        print("Stopped.")
for segment in stream.finish():  # the remaining frames of an incomplete turn
    show(segment)
print(source.stats)
