"""The folder that a reader of the pages is in: a clone, with videos, captions and models made for the tests."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

for _folder in ("", "evaluation", "production"):
    sys.path.insert(0, str(Path(__file__).parents[1] / _folder))
import pytest
from media import write_video
from PIL import Image

from livecc_hf.assets import bundled_model_path
from livecc_hf.publishing.generation_repo import write_generation_repo
from livecc_hf.tiny.rendering import write_video as write_shapes
from livecc_hf.tiny.world import simulate

ROOT = Path(__file__).parents[2]
TINY = bundled_model_path()
CHECKPOINT = ROOT / "tests/data/reference/checkpoint"
SENTENCES = (
    "The red team starts with a long pass to the left side of the field.",
    "Now the goalkeeper throws the ball far over the middle line.",
    "She runs past two players and looks for somebody in front of the goal.",
    "What a beautiful shot, and it goes just over the bar into the crowd.",
    "The referee shows a yellow card, because that was a late tackle.",
    "They take the corner quickly, and the captain heads it away.",
)
_SENTENCE_S = 6.0
_CLIP_S = 36
_MATCH_S = 24


def make_reader_folder(folder: Path) -> Path:
    """Make the folder, and return it.

    It holds what the pages speak of: `match.mp4` (24 s of shapes), `photo.jpg`, `screen.ts`, `my-videos/` and
    `videos/` with captions, `videos.jsonl`, predictions of benchmarks, the Hub folder `livecc-7b`, the
    generation code `me/live-generate`, and links to what a
    clone has.
    """
    for name in ("recipes", "examples", "pyproject.toml", "setup.py", "Makefile", "modeling", "src", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    write_shapes(simulate(-1367, _MATCH_S), folder / "match.mp4", size_px=168)
    Image.new("RGB", (320, 240), "red").save(folder / "photo.jpg")
    write_video(folder / "screen.ts", n_frames=50, size_px=(160, 120))
    (folder / "livecc-7b").symlink_to(TINY)
    write_generation_repo(folder / "me" / "live-generate")  # found by its path where a page means the Hub's
    video = write_video(folder / "video.mp4", n_frames=2 * _CLIP_S, fps=2, size_px=(640, 480))
    for name, n_videos in (("my-videos", 12), ("videos", 2)):
        (folder / name).mkdir()
        for number in range(n_videos):
            stem = "match" if number == 0 and name == "my-videos" else "abcdefghijkl"[number]
            shutil.copy(video, folder / name / f"{stem}.mp4")
            write_captions(folder / name / f"{stem}.en.vtt", shift=number)
            (folder / name / f"{stem}.info.json").write_text(
                json.dumps({"title": "A match", "language": "en", "duration": _CLIP_S, "width": 640, "height": 480})
            )
    video.unlink()
    write_predictions(folder)
    rows = [
        {"video": f"videos/{n}.mp4", "captions": f"videos/{n}.en.vtt", "title": "A match", "language": "en"}
        | {"duration_s": _CLIP_S, "width_px": 640, "height_px": 480}
        for n in "ab"
    ]
    (folder / "videos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_predictions(folder: Path) -> None:
    """Write answers, commentaries and what people said, in the layouts that are published."""
    from layouts import commentaries, verdicts, videomme, write_json, write_lines

    write_json(folder / "answers.json", videomme([("A", "A"), ("A", "C"), ("B", "B"), ("B", "B")]))
    write_json(folder / "others.json", videomme([("A", "C"), ("A", "C"), ("B", "B"), ("B", "A")]))
    rows = commentaries(list(SENTENCES))
    people = [row | {"event_asr_text": row["pred"], "event_asr": '[[0, 1, "What"]]'} for row in rows]
    write_json(folder / "LiveSports-3K-CC.json", people)
    write_lines(folder / "mine.jsonl", rows)
    won = [("mine", "GPT-4o")] * len(rows)
    write_lines(folder / "GPT-4o_mine.jsonl", verdicts(rows, won))
    write_lines(folder / "captions/GPT-4o.jsonl", commentaries(list(reversed(SENTENCES))))
    for name, sentences in (("games", SENTENCES), ("others", SENTENCES[::-1])):
        write_game(folder / f"{name}.jsonl", sentences)


def write_game(path: Path, sentences: Sequence[str]) -> None:
    """Write a commentary of 200 seconds with what a person said, a sentence a second."""
    from livecc_hf.evaluation.predictions import CommentaryRow, Header, SpokenSpan
    from livecc_hf.evaluation.predictions.file import write_rows

    said, people = (
        [SpokenSpan(second, second + 1, texts[second % len(texts)]) for second in range(200)]
        for texts in (sentences, SENTENCES)
    )
    row = CommentaryRow("game", "game.mp4", 0, 200, " ".join(span.text for span in said), said, people)
    write_rows(path, Header("commentary", protocol="live", model=path.stem), [row])


def write_captions(path: Path, shift: int = 0) -> None:
    """Write WebVTT captions in which somebody speaks all the time, at about 2 words a second."""
    lines = ["WEBVTT", ""]
    for number in range(int(_CLIP_S / _SENTENCE_S)):
        start_s = number * _SENTENCE_S
        lines.append(f"00:00:{start_s:06.3f} --> 00:00:{start_s + _SENTENCE_S - 0.1:06.3f}")
        lines += [SENTENCES[(number + shift) % len(SENTENCES)], ""]
    path.write_text("\n".join(lines))


def write_spoken(folder: Path) -> None:
    """Write videos of moving shapes in which somebody reads the sentences aloud; skip where nothing can speak."""
    from speech import RATE_HZ, needs_espeak, speak, write_scene

    if needs_espeak.args[0]:
        pytest.skip(needs_espeak.kwargs["reason"])
    folder.mkdir()
    for number in range(4):
        sound = speak(" ".join(SENTENCES[number:] + SENTENCES[:number]), folder)
        write_scene(folder / f"{number}.mp4", simulate(number, int(len(sound) / RATE_HZ) + 1), sound)
    (folder / "speech.wav").unlink()


def copy_for(folder: Path, template: Path) -> Path:
    """Give a block a folder of its own, as `template` is."""
    shutil.copytree(template, folder, symlinks=True, dirs_exist_ok=True)
    return folder
