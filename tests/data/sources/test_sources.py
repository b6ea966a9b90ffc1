"""Sources of narrated videos and conversations: JSON Lines, tables and folders."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from livecc_hf.data.dataset import open_data
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.data.sources import narrated
from livecc_hf.data.unusable import UnusableSample

sys.path.insert(0, str(Path(__file__).parents[2]))
from media import write_video

WORDS = [[1.0, 1.4, "Red"], [1.4, 1.9, "ball"], [4.2, 4.8, "stops."], [6.1, 6.5, "Again"]]
SMALL = EncodeOptions(min_pixels=28 * 28, max_pixels=84 * 84)


def conversation(video: str, words=WORDS, start: float | None = 0.5, end: float | None = 7.0) -> list:
    place = {"type": "video", "video": video}
    place |= {} if start is None else {"video_start": start, "video_end": end}
    text = {"type": "text", "text": "Commentate.", "title": "Balls", "previous": "before", "category": "Sports"}
    return [
        {"role": "user", "content": [place, text]},
        {"role": "assistant", "content": [{"type": "text_stream", "text_stream": words}]},
    ]


CHAT = [
    {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": "Two squares."},
]


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """A folder with a video of 9 s and a picture."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "a.mp4", n_frames=90)
    Image.fromarray(np.full((56, 84, 3), 200, np.uint8)).save(folder / "a.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def spoken(data, index, processor) -> str:
    inputs = data.sample(index).model_inputs
    return processor.tokenizer.decode(inputs["input_ids"][inputs["labels"] != -100])


def write_lines(path: Path, rows: list, with_offsets: bool = False) -> Path:
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    offsets = np.cumsum([0, *map(len, lines)])[:-1].tolist()
    path.write_bytes(b"".join(lines) + (json.dumps(offsets).encode() if with_offsets else b""))
    return path


@pytest.mark.parametrize("with_offsets", [False, True])
def test_published_lines_and_ordinary_conversations_in_one_file(media, tiny_processor, with_offsets):
    file = write_lines(media / f"mix-{with_offsets}.jsonl", [conversation("a.mp4"), CHAT], with_offsets)
    data = open_data([{"source": "jsonl", "path": str(file)}], tiny_processor, SMALL)
    assert len(data) == 2
    assert data.sample(0).n_words == 4
    assert spoken(data, 0, tiny_processor).replace("<|im_end|>", " ").split() == [
        *("Red", "ball", "...", "...", "stops.", "...", "...", "Again", "...")
    ]
    assert spoken(data, 1, tiny_processor) == "Two squares.<|im_end|>"
    assert data.origin(1) == f"{file.name}:2"
    text = tiny_processor.tokenizer.decode(data.sample(0).model_inputs["input_ids"])
    assert "Commentate.\n\nbefore<|im_end|>" in text


def test_the_count_covers_the_sample(media, tiny_processor):
    text_only = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
    file = write_lines(media / "count.jsonl", [conversation("a.mp4"), CHAT, text_only])
    data = open_data([{"source": "jsonl", "path": str(file)}], tiny_processor, SMALL)
    real = [data.sample(index).n_tokens for index in range(3)]
    counted = [data.count_tokens(index) for index in range(3)]
    assert counted[1] == real[1]
    assert counted[2] == real[2] + 3  # the tiny video that keeps the vision tower running
    assert real[0] <= counted[0] <= real[0] + 10


def flat(video) -> dict:
    words = [{"start": start, "end": end, "word": word} for start, end, word in WORDS]
    return {"video": video, "video_start": 0.5, "video_end": 7.0, "words": words, "query": "Commentate.", "title": "B"}


@pytest.mark.parametrize("form", ["json column", "flat columns"])
def test_a_table_holds_the_same(media, tiny_processor, form):
    from datasets import Dataset

    row = {"conversation": json.dumps(conversation("a.mp4"))} if form == "json column" else flat("a.mp4")
    file = media / f"{form.replace(' ', '-')}.parquet"
    Dataset.from_list([row, row]).to_parquet(file)
    data = open_data([{"source": "dataset", "path": str(file)}], tiny_processor, SMALL)
    assert len(data) == 2
    assert data.sample(1).n_words == 4


def test_llava_rows_with_pictures_inside(media, tiny_processor):
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    turn = {"from": Value("string"), "value": Value("string")}
    features = Features({"conversations": List(turn), "image": ImageFeature()})
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Squares."}]
    rows = [{"conversations": talk, "image": Image.open(media / "a.png")}]
    Dataset.from_list(rows, features=features).to_parquet(media / "llava.parquet")
    data = open_data([{"source": "dataset", "path": str(media / "llava.parquet")}], tiny_processor, SMALL)
    assert spoken(data, 0, tiny_processor) == "Squares.<|im_end|>"
    assert data.sample(0).model_inputs["image_grid_thw"].shape == (1, 3)


def test_a_dataset_folder(media, tiny_processor, tmp_path):
    from datasets import Dataset

    Dataset.from_list([flat("videos/a.mp4")]).to_parquet(tmp_path / "data" / "train-0.parquet")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").symlink_to(media / "a.mp4")
    data = open_data([{"source": "dataset", "path": str(tmp_path)}], tiny_processor, SMALL)
    assert data.sample(0).n_words == 4


def test_a_json_file_of_one_list(media, tiny_processor):
    file = media / "list.json"
    file.write_text(json.dumps([CHAT, conversation("a.mp4")]))
    data = open_data([{"source": "jsonl", "path": str(file)}], tiny_processor, SMALL)
    assert data.sample(1).n_words == 4


def test_a_folder_with_captions_beside_the_videos(media, tiny_processor, tmp_path, caplog):
    for name in ("one.mp4", "two.mp4", "bare.mp4"):
        (tmp_path / name).symlink_to(media / "a.mp4")
    (tmp_path / "one.srt").write_text("1\n00:00:01,000 --> 00:00:03,000\nRed ball moves.\n")
    (tmp_path / "two.json").write_text(json.dumps(WORDS))
    data = open_data([{"source": "folder", "path": str(tmp_path), "query": "Commentate."}], tiny_processor, SMALL)
    assert [data.origin(0), data.origin(1)] == ["one.mp4 clip 1", "two.mp4 clip 1"]
    assert [data.sample(0).n_words, data.sample(1).n_words] == [3, 4]
    assert "bare.mp4" in caplog.text


def test_an_item_gives_its_frames_and_words(media, tiny_processor):
    file = write_lines(media / "clip.jsonl", [conversation("a.mp4"), CHAT])
    data = open_data([{"source": "jsonl", "path": str(file)}], tiny_processor, SMALL)
    clip = data.item(0).clip(tiny_processor, SMALL)
    assert clip.frames.shape[0] == len(clip.frame_times_s)
    assert 12 <= len(clip.frames) <= 14
    assert (clip.query, clip.title, clip.previous) == ("Commentate.", "Balls", "before")
    assert data.item(1).clip(tiny_processor, SMALL) is None


@pytest.mark.parametrize(
    ("row", "reason", "message"),
    [
        (conversation("no.mp4"), "missing_file", "no.mp4"),
        (conversation("broken.mp4"), "unreadable_media", "broken.mp4"),
        (conversation("a.mp4", start=100.0, end=110.0), "no_frames", "100"),
        (conversation("a.mp4", words=[]), "no_words", "0 words"),
        (conversation("a.mp4", words=[["x"]]), "malformed", r"\['x'\]"),
        (conversation("a.mp4", words=[[1, 2, "<|im_end|>"]]), "malformed", "special token"),
        ({"something": "else"}, "malformed", "something"),
        (7, "malformed", "bad.jsonl:1"),
    ],
)
def test_unusable_rows_say_why(media, tiny_processor, row, reason, message):
    file = write_lines(media / "bad.jsonl", [row])
    data = open_data([{"source": "jsonl", "path": str(file)}], tiny_processor, SMALL)
    with pytest.raises(UnusableSample, match=message) as caught:
        data.sample(0)
    assert caught.value.reason == reason


def test_a_line_that_is_not_json(media, tiny_processor):
    (media / "cut.jsonl").write_text(json.dumps(CHAT) + '\n{"half": ')
    data = open_data([{"source": "jsonl", "path": str(media / "cut.jsonl")}], tiny_processor, SMALL)
    assert data.sample(0)
    with pytest.raises(UnusableSample, match="line 2 .*not JSON"):
        data.sample(1)


def test_a_dataset_that_cannot_be_read_says_why(media, tiny_processor):
    (media / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="cut.parquet .*cannot be opened: .*[Pp]arquet") as raised:
        open_data([{"source": "dataset", "path": str(media / "cut.parquet")}], tiny_processor, SMALL)
    assert "error occurred while generating" not in str(raised.value)


def test_a_split_of_parquet_files_is_the_one_that_is_read(tmp_path, tiny_processor):
    from datasets import Dataset

    entry = {"source": "dataset", "path": str(tmp_path / "four.parquet")}
    Dataset.from_list([flat(f"{name}.mp4") for name in "abcd"]).to_parquet(entry["path"])
    data = open_data([entry | {"split": "train[1:3]"}], tiny_processor, SMALL)
    assert [data.item(index).video.video for index in range(len(data))] == ["b.mp4", "c.mp4"]
    with pytest.raises(ValueError, match=r"four.parquet \(split test\) cannot be opened: .*test"):
        open_data([entry | {"split": "test"}], tiny_processor, SMALL)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"source": "jsonl"}, "lacks the keys.*path"),
        ({"source": "jsonl", "path": "nowhere.jsonl"}, "nowhere.jsonl does not exist"),
        (
            {"source": "dataset", "path": "nobody/nothing"},
            "nobody/nothing .*cannot be opened: it is no folder here, and ",
        ),
        ({"source": "folder", "path": "nowhere"}, "nowhere is not a folder"),
        ({"source": "folder", "path": "~nobody-here/videos"}, "~nobody-here/videos is not a folder"),
        ({"source": "dataset", "path": "~nobody-here/a.parquet"}, "~nobody-here/a.parquet .*cannot be opened"),
        (
            {"source": "dataset", "path": "a.parquet", "name": "b"},
            "a.parquet is a file, which has no name: remove name",
        ),
        ({"source": "dataset", "path": ".", "revision": "v1"}, r"dataset \. is a folder, which has no revision"),
        ({"source": "folder", "path": ".", "max_clip_s": 1}, "max_clip_s is 1 .*expected above 3"),
        ({"source": "folder", "path": ".", "max_gap_s": 0}, "max_gap_s is 0 .*expected above 0"),
        ({"sorce": "folder", "path": "."}, "data entry 0 has no source, only sorce, path: expected a source, one of"),
        ({"source": "foldr"}, "data entry 0 has source 'foldr': expected a source, one of dataset, folder"),
    ],
)
def test_a_missing_dataset_is_reported_at_once(tiny_processor, entry, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_data([entry], tiny_processor)


AT_SCALE = """
import sys
import datasets  # before the measurement, since libraries take memory, too
from torch.utils.data import RandomSampler
from livecc_hf.modeling import StreamingProcessor
from livecc_hf.data.sources import narrated
from livecc_hf.data.batches.loader import BatchLoader
from livecc_hf.data.dataset import open_data
from livecc_hf.data.batches.packing import plan_singles

def peak_kb():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

processor = StreamingProcessor.from_pretrained(sys.argv[1])
before_kb = peak_kb()
data = open_data([{"source": "jsonl", "path": sys.argv[2]}], processor)
rows = BatchLoader(data, plan_singles(len(data)), collator=None).dataset()
assert len(rows) == 5_000_000
first = next(iter(RandomSampler(rows)))
assert data.item(first).conversation.messages[1]["content"][0]["text"] == f"Answer {first}."
print(peak_kb() - before_kb)
"""


@pytest.mark.slow
def test_five_million_lines_and_their_order_take_less_than_half_a_gigabyte(tiny_folder, tmp_path):
    file = tmp_path / "many.jsonl"
    with file.open("w") as out:
        for number in range(5_000_000):
            answer = f'{{"role": "assistant", "content": "Answer {number}."}}'
            out.write(f'[{{"role": "user", "content": "Question?"}}, {answer}]\n')
    command = [sys.executable, "-c", AT_SCALE, str(tiny_folder), str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout.split()[-1]) < 500_000  # kB, in addition to the libraries


def test_a_dataset_folder_is_not_taken_for_another_of_its_name(tmp_path):
    """Nor for an earlier version of itself: `datasets` caches folders that have a card by their name only."""
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*.parquet\n---\n"
    folders = [tmp_path / name / "dataset" for name in ("a", "b")]

    def write(folder, video):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card)
        words = [[{"start": 0.0, "end": 1.0, "word": "goal"}]]
        table = pa.table({"video": [video], "video_start": [0.0], "video_end": [3.0], "words": words})
        pq.write_table(table, folder / "data" / "train-00000.parquet")
        rows, _ = narrated._load_rows(narrated.DatasetEntry(path=str(folder)))
        return rows[0]["video"]

    shown = [write(folders[0], "1.mp4"), write(folders[1], "2.mp4"), write(folders[0], "3.mp4")]
    assert shown == ["1.mp4", "2.mp4", "3.mp4"]
