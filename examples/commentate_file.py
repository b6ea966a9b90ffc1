"""Comment on a video file.

    python examples/commentate_file.py VIDEO [MODEL]

MODEL is a folder or Hub id; without it the bundled livecc-tiny speaks, which knows moving coloured shapes only.
"""

import sys

from livecc_hf import load_model_and_processor
from livecc_hf.assets import bundled_model_path

video = sys.argv[1]
model, processor, info = load_model_and_processor(sys.argv[2] if len(sys.argv) > 2 else bundled_model_path())
for note in info.notes:
    print(note)
for segment in model.stream_generate(processor, video):
    if segment.text:
        print(f"{segment.start_s:6.1f} to {segment.end_s:6.1f} s  {segment.text}")
