"""Media of conversations."""

import pytest
from chats import picture
from media import write_video


@pytest.fixture
def media(tmp_path):
    picture(120, 80, 0).save(tmp_path / "a.png")
    picture(90, 200, 1).save(tmp_path / "b.jpg")
    write_video(tmp_path / "v.mp4", n_frames=40, fps=10, size_px=(96, 64))
    return tmp_path
