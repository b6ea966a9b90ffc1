"""Push frames to a stream, change the query in the middle, and ask a question.

    python examples/push_frames.py

Frames may come from anywhere (a game, a simulator, a camera): uint8 (T, 3, H, W), two per second.
"""

import torch

from livecc_hf import load_model_and_processor
from livecc_hf.assets import bundled_model_path


def frames_of_a_moving_square(n_frames: int):
    """Yield one frame at a time: a red square that slides to the right."""
    for n in range(n_frames):
        frame = torch.full((1, 3, 252, 252), 40, dtype=torch.uint8)
        x = 10 + 12 * n
        frame[0, :, 100:150, x : x + 50] = torch.tensor([220, 50, 50], dtype=torch.uint8).view(3, 1, 1)
        yield frame


model, processor, _ = load_model_and_processor(bundled_model_path())
stream = model.start_stream(processor)
for n, frame in enumerate(frames_of_a_moving_square(16)):
    if n == 10:
        stream.ask("Commentate the square only.")  # takes effect in the next turn
    for segment in stream.push(frame):
        print(f"{segment.start_s:4.1f} s  {segment.text or '(silence)'}")
print("Question:", stream.answer("What do you see?", max_new_tokens=20))
for segment in stream.finish():
    print(f"{segment.start_s:4.1f} s  {segment.text or '(silence)'}")
