"""The dataset folder: opened by `datasets`, used for training, filled with videos, described by its card, pushed."""

import logging
import shutil
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Video, load_dataset
from huggingface_hub import DatasetCard
from PIL import Image

from livecc_hf.data.dataset import open_data
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.data.sources import narrated  # noqa: F401  (registers itself)
from livecc_hf.production.outputs.card import DatasetAbout, DatasetSummary, make_card
from livecc_hf.production.outputs.dataset_folder import (
    FolderOptions,
    _may_stay,
    write_dataset_folder,
)
from livecc_hf.production.outputs.push import count_unreachable_videos, push_dataset
from livecc_hf.production.schemas import CLIP_SCHEMA, words_array
from livecc_hf.production.stages.clips import PretrainClips, SftClips
from livecc_hf.production.stages.talking_head import TalkingHead
from livecc_hf.production.stages.text_loss import TextLoss
from livecc_hf.publishing.hub import PushError

sys.path.insert(0, str(Path(__file__).parents[2]))
from media import write_video

WORDS = [(1.0, 1.4, "Red"), (1.4, 1.9, "ball"), (4.2, 4.8, "stops."), (6.1, 6.5, "Again")]
ABOUT = DatasetAbout("Balls", sources=["my camera"], language=["en"], license="cc-by-4.0")
SMALL = EncodeOptions(min_pixels=28 * 28, max_pixels=84 * 84)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    (folder / "deep").mkdir()
    write_video(folder / "a.mp4", n_frames=90)
    write_video(folder / "deep" / "b.mp4", n_frames=90)
    return folder


def clips(*videos: str) -> pa.Table:
    n = len(videos)
    values = {"id": [f"c#{i}" for i in range(n)], "video": list(videos), "start_s": [1.0] * n, "end_s": [6.5] * n}
    values |= {"title": ["Balls"] * n, "previous": ["before"] * n, "query": ["Commentate."] * n}
    arrays = {item.name: pa.array(values.get(item.name, [None] * n), item.type) for item in CLIP_SCHEMA}
    return pa.table(arrays | {"words": words_array([WORDS] * n)}, schema=CLIP_SCHEMA)


def load(folder: Path, tmp_path: Path):
    return load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))


def test_datasets_opens_the_folder(tmp_path):
    written = write_dataset_folder(tmp_path / "out", [clips("a.mp4", "b.mp4"), clips("a.mp4")], ABOUT)
    assert written.summary == DatasetSummary(3, 2, 12, pytest.approx(3 * 5.5 / 3600))
    rows = load(written.folder, tmp_path)
    assert len(rows) == 3
    assert rows[0]["words"][0] == {"start": 1.0, "end": 1.4, "word": "Red"}
    assert (rows[2]["video"], rows[2]["video_start"], rows[2]["video_end"]) == ("a.mp4", 1.0, 7.0)
    assert len((written.folder / "conversations.jsonl").read_text().splitlines()) == 4
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_datasets_takes_no_folder_for_another_of_the_same_name(tmp_path):
    """`datasets` caches a folder by its name and by its card's description of the files."""
    shown = []
    for parent, video in (("a", "1.mp4"), ("b", "2.mp4"), ("a", "3.mp4")):
        options = FolderOptions(overwrite=True)
        folder = write_dataset_folder(tmp_path / parent / "dataset", [clips(video)], ABOUT, options).folder
        shown.append(load(folder, tmp_path)[0]["video"])
    assert shown == ["1.mp4", "2.mp4", "3.mp4"]


@pytest.mark.parametrize("is_video", [False, True])
def test_training_reads_it_as_table_and_as_jsonl(tmp_path, media, processor, is_video, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    options = FolderOptions(videos="copy", media_root=str(media), video_feature=is_video)
    folder = write_dataset_folder(tmp_path / "out", [clips("a.mp4", "deep/b.mp4")], ABOUT, options).folder
    table = open_data([{"source": "dataset", "path": str(folder)}], processor, SMALL)
    lines = open_data([{"source": "jsonl", "path": str(folder / "conversations.jsonl")}], processor, SMALL)
    assert len(table) == len(lines) == 2
    for index in range(2):
        one, other = (data.sample(index).model_inputs for data in (table, lines))
        assert one["input_ids"].tolist() == other["input_ids"].tolist()
        text = processor.tokenizer.decode(one["input_ids"][one["labels"] != -100])
        assert "Red ball" in text and "Again" in text


def test_the_video_column_may_be_a_video_feature(tmp_path, media):
    options = FolderOptions(videos="copy", media_root=str(media), video_feature=True)
    folder = write_dataset_folder(tmp_path / "out", [clips("a.mp4")], ABOUT, options).folder
    rows = load(folder, tmp_path)
    assert isinstance(rows.features["video"], Video)
    undecoded = rows.cast_column("video", Video(decode=False))
    assert undecoded[0]["video"] == {"path": "videos/a.mp4", "bytes": None}


@pytest.mark.parametrize("how", ["copy", "link"])
def test_videos_are_put_into_the_folder(tmp_path, media, how):
    options = FolderOptions(videos=how, media_root=str(media))
    table = clips("a.mp4", "deep/b.mp4", str(media / "a.mp4"), "https://example.org/c.mp4", "gone.mp4", "a.mp4")
    written = write_dataset_folder(tmp_path / "out", [table], ABOUT, options)
    names = pq.read_table(written.folder / "data" / "train-00000.parquet")["video"].to_pylist()
    assert [names[0], names[1], names[3], names[4]] == [
        "videos/a.mp4",
        "videos/deep/b.mp4",
        "https://example.org/c.mp4",
        names[0],
    ]
    for name in names[:3]:
        file = written.folder / name
        assert file.read_bytes() == (media / ("deep/b.mp4" if "b" in Path(name).stem else "a.mp4")).read_bytes()
        assert file.is_symlink() == (how == "link")
    (dropped,) = written.dropped.to_pylist()
    assert (dropped["video"], dropped["stage"], dropped["reason"]) == ("gone.mp4", "dataset", "missing_video")
    assert written.summary.n_clips == 5
    assert count_unreachable_videos(written.folder) == 0


@pytest.mark.parametrize(
    ("every_s", "said"),
    [(0.0, ["0 clips written, 1 video in the folder", "2 clips written, 1 video in the folder"]), (60, [])],
)
def test_long_copying_says_how_far_it_is(tmp_path, media, every_s, said):
    options, lines = FolderOptions(videos="copy", media_root=str(media)), []
    write_dataset_folder(tmp_path / "out", [clips("a.mp4", "a.mp4")], ABOUT, options, lines.append, every_s)
    assert lines == said


def test_a_file_url_is_a_file_of_this_machine(tmp_path, media):
    url = (media / "a.mp4").as_uri()
    left = write_dataset_folder(tmp_path / "left", [clips(url)], ABOUT).folder
    assert count_unreachable_videos(left) == 1
    copied = write_dataset_folder(tmp_path / "copied", [clips(url)], ABOUT, FolderOptions(videos="copy")).folder
    (name,) = pq.read_table(copied / "data" / "train-00000.parquet")["video"].to_pylist()
    assert name.startswith("videos/") and (copied / name).read_bytes() == (media / "a.mp4").read_bytes()
    assert count_unreachable_videos(copied) == 0


def test_videos_of_one_name_are_not_confused(tmp_path):
    for folder, n_frames in (("one", 3), ("two", 6)):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "a.mp4", n_frames=n_frames)
    table = clips(*(str(tmp_path / folder / "a.mp4") for folder in ("one", "two")))
    folder = write_dataset_folder(tmp_path / "out", [table], ABOUT, FolderOptions(videos="copy")).folder
    names = pq.read_table(folder / "data" / "train-00000.parquet")["video"].to_pylist()
    contents = [(tmp_path / name / "a.mp4").read_bytes() for name in ("one", "two")]
    assert [(folder / name).read_bytes() for name in names] == contents
    assert contents[0] != contents[1]


@pytest.mark.parametrize("how", ["copy", "link"])
def test_what_is_no_video_is_not_put_into_the_folder(tmp_path, media, how):
    """A manifest may name any file: keys, notes, pictures, playlists, even with the suffix of a video."""
    others = tmp_path / "others"
    others.mkdir()
    Image.new("RGB", (64, 64)).save(others / "photo.png")
    shutil.copy(others / "photo.png", others / "photo.mp4")
    for name in ("key.mp4", "notes.txt", "raw.yuv", "ansi.bin"):
        (others / name).write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n" * 2000)
    (others / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1\n{media / 'a.mp4'}\n#EXT-X-ENDLIST\n")
    (others / "list.mp4").write_text(f"ffconcat version 1.0\nfile {media / 'a.mp4'}\n")
    (others / "key-link.mp4").symlink_to(others / "key.mp4")
    names = [str(path) for path in sorted(others.iterdir())]
    table = clips("a.mp4", *names)
    written = write_dataset_folder(tmp_path / "out", [table], ABOUT, FolderOptions(videos=how, media_root=str(media)))
    assert [path.name for path in (written.folder / "videos").rglob("*")] == ["a.mp4"]
    assert written.summary.n_clips == 1
    dropped = written.dropped.to_pylist()
    assert {row["reason"] for row in dropped} == {"not_a_video"}
    assert [row["video"] for row in dropped] == names
    assert all(row["detail"] for row in dropped)


def test_shards_are_the_same_however_clips_come(tmp_path):
    names = [f"{i}.mp4" for i in range(10)]
    options = FolderOptions(clips_per_shard=4)
    one = write_dataset_folder(tmp_path / "one", [clips(*names)], ABOUT, options).folder
    two = write_dataset_folder(
        tmp_path / "two", [clips(*names[:1]), clips(), clips(*names[1:7]), clips(*names[7:])], ABOUT, options
    ).folder
    shards = sorted(path.name for path in (one / "data").iterdir())
    assert shards == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet"]
    for shard in shards:
        a, b = (pq.read_table(folder / "data" / shard) for folder in (one, two))
        assert a.drop_columns("id").equals(b.drop_columns("id"))
    assert (one / "conversations.jsonl").read_bytes() == (two / "conversations.jsonl").read_bytes()


def test_an_interrupted_folder_is_written_again(tmp_path, media):
    options = FolderOptions(videos="copy", media_root=str(media), clips_per_shard=1)

    def interrupted():
        yield clips("a.mp4", "deep/b.mp4")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset_folder(tmp_path / "out", interrupted(), ABOUT, options)
    assert not (tmp_path / "out").exists()
    (tmp_path / ".out.partial" / ".conversations.jsonl.1.partial").write_text("left by a kill")
    kept = (tmp_path / ".out.partial" / "videos" / "a.mp4").stat().st_ino
    folder = write_dataset_folder(tmp_path / "out", [clips("a.mp4")], ABOUT, options).folder
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["README.md", "conversations.jsonl", "data/train-00000.parquet", "videos/a.mp4"]
    assert (folder / "videos" / "a.mp4").stat().st_ino == kept  # not copied again


def test_what_is_there_is_not_overwritten_unasked(tmp_path):
    folder = tmp_path / "out"
    write_dataset_folder(folder, [clips("a.mp4")], ABOUT)
    with pytest.raises(ValueError, match="is not empty.*overwrite=True"):
        write_dataset_folder(folder, [clips("b.mp4")], ABOUT)
    write_dataset_folder(folder, [clips("b.mp4")], ABOUT, FolderOptions(overwrite=True))
    assert pq.read_table(folder / "data" / "train-00000.parquet")["video"].to_pylist() == ["b.mp4"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("")
    with pytest.raises(ValueError, match="something other than a dataset"):
        write_dataset_folder(tmp_path / "photos", [clips("a.mp4")], ABOUT, FolderOptions(overwrite=True))
    with pytest.raises(ValueError, match="there is no clip"):
        write_dataset_folder(tmp_path / "none", [clips()], ABOUT)
    with pytest.raises(ValueError, match="videos='move'"):
        FolderOptions(videos="move")
    with pytest.raises(ValueError, match="clips_per_shard=0"):
        FolderOptions(clips_per_shard=0)


def test_the_card_is_filled(tmp_path):
    about = DatasetAbout(
        "Balls in motion",
        sources=["YouTube channel X: filmed by us"],
        language=["en", "de"],
        license="other",
        license_name="as-the-sources",
        license_link="https://example.org/licence",
        stages=[PretrainClips(max_gap_s=2.5), SftClips()],
        funnel={
            "metadata": {"items_in": 2000, "items_out": 1500, "hours_in": 300.0, "hours_out": 250.5},
            "pretrain_clips": {"items_in": 1500, "items_out": 4000, "hours_in": None},
        },
        notes="## More\n\nAsk us.",
    )
    make_card(about, DatasetSummary(4000, 1500, 1_000_000, 100.0), has_jsonl=True).save(tmp_path / "README.md")
    card = DatasetCard.load(tmp_path / "README.md")
    header = card.data.to_dict()
    assert header["license"] == "other" and header["license_name"] == "as-the-sources"
    assert header["language"] == ["en", "de"] and header["size_categories"] == ["1K<n<10K"]
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    for text in (
        "4,000 narrated clips of 1,500 videos: 100.00 hours, 1,000,000 timed words, 90.0 s and 2.78 words per second",
        "YouTube channel X",
        "1. **pretrain_clips**: Cuts clips for pre-training",
        "`max_gap_s` = `2.5`",
        "| metadata | 2,000 | 1,500 | 75.0 % | 300.00 | 250.50 |",
        "| pretrain_clips | 1,500 | 4,000 |  |  |  |",  # clips are no share of videos
        "Copyright",
        "Faces and voices",
        "conversations.jsonl",
        "Ask us.",
    ):
        assert text in card.text, text


def test_the_card_says_nothing_of_the_machine_and_of_filters_that_did_not_run():
    summary = DatasetSummary(1, 1, 1, 1.0)
    for stages, text in (
        ([], "No filter of faces was used."),
        ([TalkingHead(model="~/models/qwen"), TextLoss(model="/home/me/qwen")], "were removed (talking_head);"),
    ):
        card = str(make_card(DatasetAbout("A", stages=stages), summary))
        assert text in card
        assert "/home/me" not in card and "~" not in card and "`device`" not in card
    assert "`model` = `'qwen'`" in card


@pytest.mark.parametrize(
    ("n_clips", "size"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (5_050_000, "1M<n<10M"), (2 * 10**9, "1B<n<10B")],
)
def test_size_categories_are_the_hubs(n_clips, size):
    header = yaml.safe_load(str(make_card(ABOUT, DatasetSummary(n_clips, 1, 1, 1.0))).split("---")[1])
    assert header["size_categories"] == [size]
    assert "license_name" not in header  # cc-by-4.0 has none


def test_what_a_card_cannot_say_is_refused():
    with pytest.raises(ValueError, match="sources is 'here'"):
        DatasetAbout("A", sources="here")
    with pytest.raises(ValueError, match="funnel of stage 'asr' has keys"):
        DatasetAbout("A", funnel={"asr": {"items_in": 1, "out": 2}})
    with pytest.raises(ValueError, match="items_out is -2"):
        DatasetAbout("A", funnel={"asr": {"items_in": 1, "items_out": -2}})
    with pytest.raises(ValueError, match="name is empty"):
        DatasetAbout(" ")


def test_a_push_checks_what_it_is_given(tmp_path, caplog):
    with pytest.raises(ValueError, match="is not a dataset folder"):
        push_dataset(tmp_path, "me/clips")
    folder = write_dataset_folder(tmp_path / "out", [clips("/home/me/a.mp4", "hf://datasets/me/b/b.mp4")], ABOUT).folder
    for name in ("me/a/b", "me/..", "a b"):
        with pytest.raises(ValueError, match="[Rr]epo"):
            push_dataset(folder, name)
    assert count_unreachable_videos(folder) == 1
    with caplog.at_level(logging.WARNING), pytest.raises(PushError, match="HF_HUB_OFFLINE is set"):
        push_dataset(folder, "me/clips", token="hf_none")
    assert "1 clips" in caplog.text


def test_long_tables_have_row_groups_that_are_reached_alone(tmp_path):
    table = pa.concat_tables([clips(*["a.mp4"] * 50)] * 50)
    folder = write_dataset_folder(tmp_path / "out", [table], ABOUT, FolderOptions(jsonl=False)).folder
    file = pq.ParquetFile(folder / "data" / "train-00000.parquet")
    assert file.num_row_groups > 1 and file.metadata.num_rows == 2500
    assert not (folder / "conversations.jsonl").exists()
    lengths = np.array([len(words) for words in file.read_row_group(1)["words"].to_pylist()])
    assert (lengths == len(WORDS)).all()


@pytest.mark.parametrize(
    ("path", "stays"),
    [
        (PurePosixPath("a.mp4"), True),
        (PurePosixPath("./deep/é b.mp4"), True),
        (PurePosixPath("/videos/a.mp4"), False),
        (PurePosixPath("deep/../../a.mp4"), False),
        (PurePosixPath("~/a.mp4"), False),
        (PurePosixPath(".cache/a.mp4"), False),
        (PurePosixPath("deep/.a.mp4"), False),
        (PureWindowsPath(r"deep\a.mp4"), True),
        (PureWindowsPath(r"C:\videos\a.mp4"), False),
        (PureWindowsPath("C:a.mp4"), False),
        (PureWindowsPath(r"\videos\a.mp4"), False),
    ],
)
def test_which_paths_stay_below_the_folder_of_videos(path, stays):
    assert _may_stay(path) == stays


def test_hidden_videos_are_not_hidden_in_the_folder(tmp_path, media):
    root = tmp_path / "root"
    (root / ".cache").mkdir(parents=True)
    shutil.copyfile(media / "a.mp4", root / ".cache" / ".a.mp4")
    options = FolderOptions(videos="copy", media_root=str(root))
    folder = write_dataset_folder(tmp_path / "out", [clips(".cache/.a.mp4")], ABOUT, options).folder
    (name,) = pq.read_table(folder / "data" / "train-00000.parquet")["video"].to_pylist()
    assert (folder / name).is_file() and not any(part.startswith(".") for part in Path(name).parts)


@pytest.mark.parametrize("videos", ["link", "copy"])
@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_video_with_the_longest_possible_name_is_put_into_the_folder(videos, is_absolute, tmp_path, media):
    name = "\u00e9" * 125 + "x.mp4"
    assert len(name.encode()) == 255
    shutil.copyfile(media / "a.mp4", tmp_path / name)
    given = str(tmp_path / name) if is_absolute else name
    options = FolderOptions(videos=videos, media_root=str(tmp_path))
    folder = write_dataset_folder(tmp_path / "out", [clips(given)], ABOUT, options).folder
    (place,) = pq.read_table(folder / "data" / "train-00000.parquet")["video"].to_pylist()
    assert (folder / place).read_bytes() == (media / "a.mp4").read_bytes()
    assert place.startswith("videos/") and place.endswith(".mp4") and "\u00e9" * 100 in place


@pytest.mark.parametrize("own", [{"license_name": "mine"}, {"license_link": "https://example.org/licence"}])
def test_a_licence_of_ones_own_needs_license_other(own):
    (key,) = own
    with pytest.raises(ValueError, match=f"{key}={own[key]}: not with license=cc-by-4.0, which does not use it"):
        DatasetAbout("Balls", license="cc-by-4.0", **own)
    assert getattr(DatasetAbout("Balls", **own), key) == own[key]
