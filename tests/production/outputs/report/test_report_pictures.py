"""The pictures of a report: the right frames of real files, with words and faces on the same clock."""

import base64
import io
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media import number_of, write_video
from PIL import Image

from livecc_hf.production.execution.units import StageStats
from livecc_hf.production.outputs.report import pictures
from livecc_hf.production.outputs.report.options import ReportOptions
from livecc_hf.production.outputs.report.pictures import Photographer, choose_times, link_to
from livecc_hf.production.outputs.report.samples import ReportSample, read_sample
from livecc_hf.production.outputs.report.write import write_report
from livecc_hf.production.schemas import CLIP_SCHEMA, DROPPED_SCHEMA
from livecc_hf.production.stages.clips import PretrainClips

FPS = 10


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    return write_video(folder / "a match & more.mp4", n_frames=120, fps=FPS, size_px=(320, 240))


def decode(source: str) -> Image.Image:
    assert source.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def words(start_s: float, n: int) -> list[dict]:
    return [{"start_s": start_s + i, "end_s": start_s + i + 0.5, "word": f"word{i}"} for i in range(n)]


def face(time_s: float, score: float, left: float = 0.25) -> dict:
    return {"time_s": time_s, "score": score, "left": left, "top": 0.5, "right": left + 0.25, "bottom": 0.75}


def clip(video: Path | str, start_s=2.0, end_s=10.0, **row) -> dict:
    return {"id": "v#0", "video": str(video), "start_s": start_s, "end_s": end_s, "words": words(start_s, 8)} | row


def sample_of(row: dict, schema: pa.Schema = CLIP_SCHEMA) -> ReportSample:
    return read_sample(pa.Table.from_pylist([row], schema), 0)


def write_page(folder: Path, kept=(), dropped=(), **options) -> str:
    pq.write_table(pa.Table.from_pylist(list(dropped), DROPPED_SCHEMA), folder / "dropped.parquet")
    tables = [pa.Table.from_pylist(list(kept), CLIP_SCHEMA)]
    stats = [StageStats("input", 3, 3), StageStats("pretrain_clips", 3, 3), StageStats("active_speaker", 3, 1)]
    with pq.ParquetFile(folder / "dropped.parquet") as file:
        write_report(folder, stats, [PretrainClips()], tables, file, ReportOptions(**options))
    return (folder / "report.html").read_text()


def test_a_picture_of_each_part_of_the_time():
    assert choose_times(2.0, 10.0, 4) == [3.0, 5.0, 7.0, 9.0]
    # Where faces are known, at the moment of those next to the middle.
    assert choose_times(2.0, 10.0, 4, [2.1, 3.4, 3.9, 6.5]) == [3.4, 5.0, 6.5, 9.0]


@pytest.fixture()
def here(monkeypatch):
    """Videos are decoded in this process: another one takes seconds to start."""
    monkeypatch.setattr(Photographer, "_run", lambda self, function, *arguments: function(*arguments))


def test_the_pictures_are_the_frames_of_their_times(video, here):
    with Photographer(ReportOptions(frames=4, frame_px=160)) as photographer:
        strip = photographer.strip_of(sample_of(clip(video, faces=[face(4.6, 1.0)])))
        whole = photographer.strip_of(sample_of({"id": "v", "video": str(video), "hours": 12 / 3600}, DROPPED_SCHEMA))
        unknown = photographer.strip_of(sample_of({"id": "v", "video": f"file://{video}"}, DROPPED_SCHEMA))
        past = photographer.strip_of(sample_of(clip(video, 9.0, 17.0)))
    assert [picture.time_s for picture in strip.pictures] == [3.0, 4.6, 7.0, 9.0]
    for picture in strip.pictures:
        image = decode(picture.source)
        assert image.size == picture.size_px == (160, 120)
        shown = number_of(np.asarray(image).transpose(2, 0, 1))
        # The frame on screen at that time; one that ends just then still counts.
        assert shown in (round(picture.time_s * FPS) - 1, round(picture.time_s * FPS))
    assert [picture.time_s for picture in whole.pictures] == [1.5, 4.5, 7.5, 10.5]
    assert unknown == whole  # the file says how long it is
    assert [picture.source is not None for picture in past.pictures] == [True, False, False, False]
    assert past.fault is None


@pytest.mark.parametrize("side", [(96, 64), (240, 320)])
def test_small_pictures_are_not_enlarged_and_tall_ones_fit(tmp_path, side):
    path = write_video(tmp_path / "a.mp4", n_frames=20, fps=FPS, size_px=side)
    [picture] = pictures.read_strip(str(path), 0.0, 1.0, [], 1, 160).pictures
    assert picture.size_px == ((96, 64) if side == (96, 64) else (120, 160))


def test_why_there_are_no_pictures(tmp_path, video):
    (tmp_path / "text.mp4").write_text("no video at all\n" * 50)
    (tmp_path / "list.txt").write_text("ffconcat version 1.0\nfile a.mp4\n")
    with Photographer(ReportOptions(frames=2, max_pictures=2)) as photographer:

        def fault(name, *times):
            return photographer.strip_of(sample_of(clip(name, *times))).fault

        assert fault(tmp_path / "gone.mp4") == "gone.mp4 is not on this machine"
        assert fault("https://a.b/c.mp4") == "https://a.b/c.mp4 is not on this machine"
        assert fault("a\0b.mp4") == "a\0b.mp4 is not on this machine" and fault(tmp_path).endswith(
            "is not on this machine"
        )
        assert "text.mp4" in fault(tmp_path / "text.mp4")
        assert "list.txt" in fault(tmp_path / "list.txt")
        assert fault(video, 20.0, 30.0) == "a match & more.mp4 has no picture from 20 to 30 s"
        assert fault(video) is None
        assert fault(video) == "the report has 2 pictures already (report.max_pictures)"
    with Photographer(ReportOptions(frames=0)) as photographer:
        assert photographer.strip_of(sample_of(clip(video))) == pictures.Strip(2.0, 10.0)
        assert photographer._worker is None  # no process was started


def die(path, *arguments):
    if Path(path).name == "hangs.mp4":
        time.sleep(1e6)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_video_over_which_a_decoder_dies_or_hangs_costs_its_own_pictures(tmp_path, video, monkeypatch):
    names = ["dies.mp4", "hangs.mp4", "dies.mp4", "dies.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(b"deadly")
    with Photographer(ReportOptions(frames=2)) as photographer:
        monkeypatch.setattr(pictures, "_LIMIT_S", 2.0)
        with monkeypatch.context() as patch:
            patch.setattr(pictures, "read_strip", die)
            faults = [photographer.strip_of(sample_of(clip(tmp_path / name))).fault for name in names[:2]]
        monkeypatch.setattr(pictures, "_LIMIT_S", 60.0)
        assert photographer.strip_of(sample_of(clip(video))).fault is None
        with monkeypatch.context() as patch:
            patch.setattr(pictures, "read_strip", die)
            faults += [photographer.strip_of(sample_of(clip(tmp_path / name))).fault for name in names[2:]]
    assert faults[0].startswith("dies.mp4: its worker process died")
    assert faults[1].startswith("hangs.mp4: timed out")
    assert faults[3] == "decoding was stopped after 3 videos that killed the decoding process"


def test_links_play_the_clip(tmp_path, video):
    out = tmp_path / "data" / "out"
    for path in (out / "dataset/videos/a b.mp4", tmp_path / "data/videos/c#1.mp4"):
        path.parent.mkdir(parents=True)
        path.touch()
    assert link_to(str(out / "dataset/videos/a b.mp4"), out, 2.5, 10.0) == "dataset/videos/a%20b.mp4#t=2.5,10"
    assert link_to(str(tmp_path / "data/videos/c#1.mp4"), out, 0.0, None) == "../videos/c%231.mp4#t=0"
    assert link_to(str(video), out, 2.0, 10.0) == f"{video.as_uri()}#t=2,10"
    assert link_to("https://a.b/c.MP4?x=1", out, 2.0, 10.0) == "https://a.b/c.MP4?x=1#t=2,10"
    assert link_to("https://a.b/watch?v=1", out, 2.0, 10.0) == "https://a.b/watch?v=1"
    for name in ("javascript://a.mp4/%0aalert(1)", "gone.mp4", "", "hf://datasets/a/b/c.mp4"):
        assert link_to(name, out, 2.0, 10.0) is None


def test_words_and_faces_stand_below_their_pictures(tmp_path, video, here):
    faces = [face(3.0, 2.0), face(3.0, -1.0, left=0.6), face(3.5, 4.0), face(7.0, -2.0)]
    gone = clip("gone.mp4", id="gone#0", faces=faces, stage="active_speaker", reason="active_speaker", value=0.5)
    long = clip("gone.mp4", id="long#0", stage="active_speaker", reason="no_audio") | {"words": words(2.0, 24)}
    page = write_page(tmp_path, [clip(video, faces=faces, speaker_ratio=0.25)], [gone, long], frames=4)
    articles = {re.search("<b>(.*?)</b>", part)[1]: part for part in page.split("<article")[1:]}
    kept = articles["v#0"]
    assert re.findall(r'<p class="said">(.*?)</p>', kept) == [
        "word0 word1",
        "word2 word3",
        "word4 word5",
        "word6 word7",
    ]
    frames = kept.split('class="frame"')[1:]
    assert [len(re.findall("<rect", frame.partition("</svg>")[0])) for frame in frames[:1]] == [2]
    assert 'class="speaks" x="0.2500" y="0.5000" width="0.2500" height="0.2500"' in frames[0]
    assert 'class="still" x="0.6000"' in frames[0] and ">+2.0</b>" in frames[0] and ">-1.0</b>" in frames[0]
    assert "<svg" not in frames[1] and 'class="still" x="0.2500"' in frames[2]
    assert 'href="' in frames[0] and "#t=3,10" in frames[0]
    scores = re.search(r'<svg class="scores.*?</svg>', kept)[0]
    assert 'aria-label="2 of 4 scores above 0"' in scores
    # Half of the greatest score is half of the way up; 1 s after the start is an eighth of the way along.
    assert '<rect class="speaks" x="125.0" y="10.0"' in scores and 'y="20.0" width="54.0" height="5.0"' in scores
    # Words are known without a video too, and that the first of them are not all.
    assert "gone.mp4 is not on this machine" in articles["gone#0"] and "<img" not in articles["gone#0"]
    assert re.findall(r'<p class="said">(.*?)</p>', articles["gone#0"])[0] == "word0"
    assert 'class="scores' in articles["gone#0"] and 'class="scores' not in articles["long#0"]
    assert re.findall(r'<p class="said">(.*?)</p>', articles["long#0"])[-1].endswith("word23 …")
    assert page.count("<img") == 4 and page.count("data:image") == 4 and "<script" not in page


def test_a_number_is_shown_with_the_limit_that_it_missed(tmp_path):
    from livecc_hf.production.outputs.report.charts import make_distributions
    from livecc_hf.production.outputs.report.strips import show_sample

    [item] = [item for item in make_distributions() if item.name == "speaker_ratio"]
    sample = sample_of(clip("gone.mp4", stage="active_speaker", reason="active_speaker", value=0.5), DROPPED_SCHEMA)
    shown = show_sample(
        sample, pictures.Strip(2.0, 10.0), tmp_path, [("speaker_ratio", 0.5, item, {"max_ratio": 0.05})]
    )
    assert '<i>speaker ratio</i> 0.5<u><em style="width:50.0%"></em><s style="left:5.0%"></s></u>' in shown
    assert "max_ratio 0.05" in shown


def test_options_that_make_no_sense_are_refused():
    for options, said in (({"frames": -1}, "report.frames is -1"), ({"samples": 0}, "report.samples is 0")):
        with pytest.raises(ValueError, match=said):
            ReportOptions(**options)


def test_a_browser_shows_it_on_a_phone_and_in_the_dark(tmp_path, video):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    rows = [clip(video, id=f"v#{i}", stage="active_speaker", reason="active_speaker", value=0.5) for i in range(3)]
    write_page(tmp_path, [clip(video, title="T" * 300)], rows, frames=4)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        grounds, complaints = set(), []
        for width, scheme in ((390, "light"), (1280, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            page.on("console", lambda message: complaints.append(message.text))
            page.goto((tmp_path / "report.html").as_uri() + "#active_speaker-active_speaker")
            page.wait_for_function("[...document.images].every(image => image.complete)")
            assert page.evaluate("document.querySelector('.reasons details').open")  # the link opened what it leads to
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].map(image => image.naturalWidth)") == [192] * 16
            assert page.evaluate("[...document.images].every(image => image.getBoundingClientRect().height > 60)")
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.evaluate("document.querySelectorAll('details').forEach(part => part.open = false)")
            tall = "[...document.querySelectorAll('.stage')].map(part => part.getBoundingClientRect().height)"
            assert all(height < 800 for height in page.evaluate(tall))  # a stage is one screen
            assert complaints == []
            page.close()
        assert len(grounds) == 2
        browser.close()
