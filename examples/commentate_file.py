"""Comment on a video file.

    python examples/commentate_file.py VIDEO [MODEL]

MODEL is a folder or Hub id; the default is the bundled livecc-tiny, which only knows moving coloured shapes.
"""

import sys

from livecc_hf import load_model_and_processor
from livecc_hf.assets import bundled_model_path
from livecc_hf.video.reader import probe_video

if len(sys.argv) not in (2, 3):
    raise SystemExit("usage: python examples/commentate_file.py VIDEO [MODEL]")
video, name = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else bundled_model_path()
try:
    probe_video(video)  # fail on a bad file before loading the model
    model, processor, info = load_model_and_processor(name)
    for note in info.notes:
        print(note)
    for segment in model.stream_generate(processor, video):
        if segment.text:
            print(f"{segment.start_s:6.1f} to {segment.end_s:6.1f} s  {segment.text}")
except (OSError, ValueError) as error:  # missing file, not a video, missing model
    raise SystemExit(f"error: {error}") from None
except KeyboardInterrupt:
    raise SystemExit(130) from None
