"""One clock: a word goes with the picture that a player shows at its time, whatever the file's own clock says."""

import json
import math
import re
from contextlib import contextmanager

import pyarrow.parquet as pq
import pytest
from backbones import write_published
from media import number_of, write_video
from PIL import Image

from livecc_hf.captions.files import read_words
from livecc_hf.captions.writers import Caption, open_writer
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.cli.main import main
from livecc_hf.data.dataset import open_data
from livecc_hf.data.formats.chat import Conversation
from livecc_hf.data.samples.chat import encode_chat
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.data.sources import narrated  # noqa: F401 - registers the sources
from livecc_hf.evaluation.running.commentary import read_for
from livecc_hf.evaluation.running.shared_vision import SharedVision
from livecc_hf.evaluation.tasks.questions import FrameRule
from livecc_hf.modeling.video_loading import LoadOptions, load_video
from livecc_hf.production.stages.talking_head import clip_frames
from livecc_hf.questions.asking import answer
from livecc_hf.video.reader import probe_video

SIZE = EncodeOptions(min_pixels=96 * 64, max_pixels=112 * 84)
LENGTH_S = 30
# As FFmpeg writes it, after hours of a broadcast, and of Matroska cut out of a longer recording.
STARTS = {"talk.ts": 1.4, "broadcast.ts": 10_000.0, "cut.mkv": 7.3, "plain.mp4": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos with ten numbered pictures a second and, on the player's clock, a word in each second."""
    path = tmp_path_factory.mktemp("clock") / "videos"
    path.mkdir()
    for name, start_s in STARTS.items():
        write_video(path / name, times_s=[start_s + n / 10 for n in range(10 * LENGTH_S)])
        with (path / name).with_suffix(".srt").open("w") as file:
            writer = open_writer("srt", file)
            for second in range(LENGTH_S - 1):
                writer.write(Caption(second + 0.2, second + 0.9, f"word{second}"))
    return path


def number_shown(time_s):
    """The picture on screen just before a time: that of the first tenth of a second is shown until 0.1 s."""
    return max(0, math.ceil(round(time_s * 10, 6)) - 1)


def check_clips(data, processor):
    """Every frame of the data's clips is the one that a player shows at its time, and words keep their times."""
    spoken = []
    for index in range(len(data)):
        item = data.item(index)
        clip, first_s = item.clip(processor, SIZE), item.video.start_s
        for n, (frame, end_s) in enumerate(zip(clip.frames, clip.frame_times_s, strict=True)):
            time_s = first_s + n / 2
            assert number_of(frame) == number_shown(time_s)
            assert time_s - 1e-6 <= end_s <= time_s + 0.1 + 1e-6
        spoken += [(round(start_s, 3), round(end_s, 3), word) for start_s, end_s, word in clip.words]
    assert spoken == [(n + 0.2, n + 0.9, f"word{n}") for n in range(LENGTH_S - 1)] * len(STARTS)


def test_training_on_a_folder(folder, processor):
    check_clips(open_data([{"source": "folder", "path": str(folder)}], processor), processor)


def test_production_and_training_on_what_it_made(folder, processor, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    stages = {
        "probe": {},
        "captions": {"min_distinct_words": 3, "round_s": 0},
        "pretrain_clips": {"min_words_per_s": 0.5, "min_s": 5},
    }
    options = {"input": str(folder), "out": str(tmp_path / "out"), "workers": 1, "stages": stages}
    recipe.write_text(json.dumps(options))
    assert main(["data", "build", "--config", str(recipe)]) == 0
    dropped = pq.read_table(tmp_path / "out/dropped.parquet")
    assert dropped.num_rows == 0, dropped.to_pylist()
    dataset = tmp_path / "out/dataset"
    for source, file in (("dataset", ""), ("jsonl", "conversations.jsonl")):
        check_clips(
            open_data([{"source": source, "path": str(dataset / file), "media_root": str(folder)}], processor),
            processor,
        )


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("span", [(2.0, 10.0), (4.0, 28.0), (0.0, 8.0)])
def test_pictures_for_the_talking_head_model(folder, name, span):
    path = folder / name
    step_s = (span[1] - span[0]) / 8
    frames = clip_frames(str(path), *span)
    assert [number_of(frame) for frame in frames] == [number_shown(span[0] + n * step_s) for n in range(8)]


@pytest.mark.parametrize("name", STARTS)
def test_parts_that_questions_are_about(folder, name, processor):
    options = LoadOptions(start_s=20, end_s=24, min_pixels=96 * 64, max_pixels=112 * 84)
    video = load_video(folder / name, processor.video_processor, options)
    assert video.times_s == [20 + n / 2 for n in range(8)]
    assert [number_of(frame) for frame in video.frames] == [number_shown(time_s) for time_s in video.times_s]


@pytest.fixture(scope="module")
def qwen3_vl(tmp_path_factory):
    """The model and processor of a tiny Qwen3-VL."""
    folder = write_published("qwen3_vl", tmp_path_factory.mktemp("qwen3_vl"))
    return load_model_and_processor(folder, device="cpu", position_scheme="mrope")[:2]


class TestTimeLabelsOfQwen3VL:
    """Qwen3-VL reads the time of each frame pair as text, such as `<3.2 seconds>`."""

    @staticmethod
    @contextmanager
    def labels_seen(model, processor):
        """Collect the labels in the prompts of the model's prefills, in seconds."""
        labels = []

        def read(_module, _args, inputs):
            text = processor.tokenizer.decode(inputs["input_ids"][0])
            labels.extend(float(label) for label in re.findall(r"<([\d.]+) seconds>", text))

        hook = model.register_forward_pre_hook(read, with_kwargs=True)
        yield labels
        hook.remove()

    @staticmethod
    def sample_labels(processor, **video):
        """Return the labels in a training sample about a video, in seconds."""
        question = {"role": "user", "content": [{"type": "video", **video}, {"type": "text", "text": "What?"}]}
        reply = {"role": "assistant", "content": [{"type": "text", "text": "A square."}]}
        sample = encode_chat(Conversation([question, reply]), processor, SIZE)
        text = processor.tokenizer.decode(sample.model_inputs["input_ids"])
        return [float(label) for label in re.findall(r"<([\d.]+) seconds>", text)]

    @pytest.mark.parametrize("name", ["plain.mp4", "broadcast.ts"])
    def test_they_are_player_times_in_questions_training_and_evaluation(self, folder, name, qwen3_vl):
        model, processor = qwen3_vl
        with self.labels_seen(model, processor) as asked:
            reading = LoadOptions(start_s=20, end_s=24, num_frames=4, max_pixels=SIZE.max_pixels)
            answer(model, processor, folder / name, "What?", reading, max_new_tokens=1, do_sample=False)
        with self.labels_seen(model, processor) as evaluated:
            clip = read_for(processor, folder / name, 20, 24, FrameRule(n_frames=4, max_pixels=SIZE.max_pixels))
            SharedVision(model, processor, clip.frames, times_s=clip.appears_s)
        trained = self.sample_labels(processor, video=str(folder / name), video_start=20, video_end=24, nframes=4)
        assert asked == [20.5, 22.5]  # frames at 20, 21, 22 and 23 s
        assert trained == [20.6, 23.2]  # at 20, 21.3, 22.6 and 23.9 s: the last frame of the part is included
        assert evaluated == pytest.approx(trained, abs=0.1 + 1e-6)  # its first frame leaves the screen at 20 s

    def test_those_of_a_whole_video_are_equal_in_training_and_evaluation(self, folder, qwen3_vl):
        model, processor = qwen3_vl
        with self.labels_seen(model, processor) as evaluated:
            clip = read_for(processor, folder / "cut.mkv", None, None, FrameRule(n_frames=6, max_pixels=96 * 64))
            SharedVision(model, processor, clip.frames, times_s=clip.appears_s)
        trained = self.sample_labels(processor, video=str(folder / "cut.mkv"), nframes=6)
        assert evaluated == trained == [3.0, 14.9, 26.9]

    def test_an_odd_last_frame_is_labelled_alike_in_training_and_questions(self, tmp_path, qwen3_vl):
        """The second frame of the last pair repeats the first."""
        processor = qwen3_vl[1]
        pictures = [str(tmp_path / f"{n}.png") for n in range(3)]
        for picture in pictures:
            Image.new("RGB", (64, 64)).save(picture)
        content = [{"type": "video", "video": pictures}, {"type": "text", "text": "What?"}]
        chat = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        asked = processor.apply_chat_template([{"role": "user", "content": content}], **chat)
        assert "<1.0 seconds>" in processor.tokenizer.decode(asked["input_ids"][0])
        assert self.sample_labels(processor, video=pictures) == [0.2, 1.0]


@pytest.mark.parametrize("name", STARTS)
def test_comments_and_their_subtitles(folder, name, processor, make_model, published_checkpoint, tmp_path):
    """What a model says of a file is timed as its captions are, and is read back so."""
    options = {"start_s": 3, "end_s": 9, "do_sample": False, "silence_threshold": 1.0}
    segments = list(make_model("mrope").stream_generate(processor, folder / name, **options))
    assert [(segment.start_s, segment.end_s) for segment in segments] == [(3, 6), (6, 7), (7, 8), (8, 9)]
    out = tmp_path / "out.srt"
    options = ["--start", "3", "--end", "9", "--greedy", "--silence-threshold", "1", "--output", out, "--quiet"]
    options += ["--position-scheme", "mrope", "--model", published_checkpoint]
    assert main(["commentate", str(folder / name), *map(str, options)]) == 0
    said = [segment for segment in segments if any(map(str.isalnum, segment.text))]
    words = read_words(out)
    assert said and {word.end_s for word in words} >= {segment.end_s for segment in said}
    assert all(any(s.start_s <= word.start_s <= word.end_s <= s.end_s for s in said) for word in words)


def test_the_exact_start_of_a_clock_whose_header_is_rounded(tmp_path):
    """Containers tell their start in microseconds, and no picture may fall before it for that."""
    path = write_video(tmp_path / "a.ts", times_s=[(126_001 + 9_000 * n) / 90_000 for n in range(30)])
    info = probe_video(path)
    assert info.clock_start_s == info.first_pts_s == 126_001 / 90_000
