"""Fixtures of the evaluation tests."""

import copy

import pytest
from layouts import write_json
from media import write_video


@pytest.fixture(scope="session")
def talkative(make_model, processor, tmp_path_factory):
    """A model whose tokenizer has single tokens for Yes, No, digits and letters."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("talkative")
    processor.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["Yes", "No", *"0123456789", *"ABCDE"])
    tokenizer.save_pretrained(folder)
    model = copy.deepcopy(make_model("mrope"))
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def benchmark(tmp_path):
    """Two videos with three questions each in Video-MME's format, with subtitles for one video."""
    rows = [
        {
            "video_id": f"00{v}",
            "duration": "short",
            "domain": "Knowledge",
            "sub_category": "Law",
            "videoID": f"clip{v}",
            "question_id": f"00{v}-{q}",
            "task_type": "Counting Problem",
            "question": f"What is {q}?",
            "options": ["A. Red.", "B. Blue.", "C. Green.", "D. None."],
            "answer": "ABC"[q],
        }
        for v in (1, 2)
        for q in range(3)
    ]
    for v in (1, 2):
        (tmp_path / "videos/data").mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / f"videos/data/clip{v}.mp4", n_frames=30, fps=10, size_px=(112, 84))
    (tmp_path / "subtitles").mkdir()
    (tmp_path / "subtitles/clip1.srt").write_text(
        "1\n00:00:00,500 --> 00:00:01,000\n<i>One</i>\ntwo\n\n2\n00:00:02,000 --> 00:00:02,500\nthree\n"
    )
    return write_json(tmp_path / "videomme.json", rows), tmp_path / "videos", tmp_path / "subtitles"
