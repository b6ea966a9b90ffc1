"""From a run on synthetic sports events, through a judge, to an HTML page that is opened in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from chat_server import Reply, serve_chat
from layouts import commentaries, verdicts, videomme, write_json, write_lines
from media import write_video

from livecc_hf.assets import bundled_model_path, demo_clip_path
from livecc_hf.cli.main import main
from livecc_hf.evaluation import report, score
from livecc_hf.evaluation.predictions import CommentaryRow, Header, SpokenSpan, VerdictRow
from livecc_hf.evaluation.predictions.file import write_rows
from livecc_hf.evaluation.reporting.thumbnails import thumbnails_from
from livecc_hf.evaluation.tasks.videos import VideoFolder

pytest.importorskip("matplotlib")


class Page(HTMLParser):
    """The contents of a page: its text without scripts, its tags, and the data of its verdicts."""

    def __init__(self, path):
        super().__init__()
        self.text, self.tags, self.data, self._inside = "", [], "", []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside.append(dict(attributes).get("id", tag))

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self.text += data
        elif self._inside[-1] == "verdict-data":
            self.data += data

    def having(self, tag, **attributes):
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]


def test_charts_and_figures_of_answers(tmp_path):
    answers = [("A", "A"), ("B", "A"), ("A", "A"), ("C", None)]
    path = write_json(tmp_path / "r.json", videomme(answers) + [
        video | {"video_id": f"1{video['video_id']}", "questions": [
            question | {"question_id": f"1{question['question_id']}"} for question in video["questions"]]}
        for video in videomme(answers, "long")
    ])  # fmt: skip
    report(path, tmp_path / "r.html", incomplete=True)
    page = Page(tmp_path / "r.html")
    assert "overall (N = 8 of 2700)" in page.text
    assert "By duration" in page.text
    assert "N: rows, and in brackets how many of them count" in page.text
    assert len(page.having("svg", **{"class": "chart"})) >= 2
    assert not page.data  # no verdicts, no viewer
    assert "withheld" not in page.text
    assert "http" not in re.sub(r"http://www\.w3\.org\S+|https?://(purl|creativecommons|matplotlib)\S+", "",
                                (tmp_path / "r.html").read_text().split("<script>")[0])  # fmt: skip


@pytest.mark.parametrize("video", ["clip", "clip.mp4", "games/clip.mp4"])
def test_a_commentary_may_name_its_video_with_or_without_the_suffix(video, tmp_path):
    write_video(tmp_path / "clip.mp4", n_frames=30, fps=10)
    row = CommentaryRow("k", video, 0, 3, "A goal.")
    assert len(thumbnails_from(VideoFolder(tmp_path))(row, 2)) == 2


def test_an_undefined_figure_is_not_called_withheld(tmp_path):
    row = CommentaryRow("k", "v", 0, 5, "", turns=[SpokenSpan(0, 3, "")], reference=[SpokenSpan(0, 3, "A goal.")])
    write_rows(tmp_path / "t.jsonl", Header("commentary", suite="livesports3k-cc", n_rows=2), [row])
    report(tmp_path / "t.jsonl", tmp_path / "r.html")
    text = Page(tmp_path / "r.html").text
    assert "lag (median)-" in text and "(N = 1 of 2)withheld: incomplete" in text


def test_verdicts_that_name_no_model_are_not_matched_to_commentaries_that_name_none(tmp_path):
    rows = [CommentaryRow("k", "v", 0, 5, "said")]
    write_rows(tmp_path / "t.jsonl", Header("commentary", suite="livesports3k-cc"), rows)
    both = [VerdictRow("k", "v", order, "model") for order in ("ab", "ba")]
    write_rows(tmp_path / "verdicts.jsonl", Header("verdict", suite="livesports3k-cc"), both)
    report([tmp_path / "t.jsonl", tmp_path / "verdicts.jsonl"], tmp_path / "r.html")
    assert not Page(tmp_path / "r.html").data


def test_suspicions_stand_out(tmp_path):
    rows = commentaries(["..."] * 10 + ["said"] * 10)
    files = [
        write_lines(tmp_path / "Base_Mine.jsonl", verdicts(rows, [("Mine", "Mine")] * 20)),
        write_lines(tmp_path / "Mine.jsonl", rows),
        write_lines(tmp_path / "Base.jsonl", rows),
    ]
    report(files, tmp_path / "r.html", incomplete=True)
    page = Page(tmp_path / "r.html")
    assert len(page.having("p", **{"class": "suspect"})) == 1
    (shown,) = json.loads(page.data)
    assert len(shown["rows"]) == 20


def test_texts_cannot_break_out_of_the_page(tmp_path):
    bad = "</script><script>alert(1)</script><b>&amp;"
    rows = commentaries([bad])
    files = [
        write_lines(tmp_path / "Base_Mine.jsonl", verdicts(rows, [("Mine", "Base")])),
        write_lines(tmp_path / "Mine.jsonl", rows),
        write_lines(tmp_path / "Base.jsonl", rows),
    ]
    row = CommentaryRow("k", "v", 0, 5, bad, turns=[SpokenSpan(0, 3, bad)], reference=[SpokenSpan(0, 3, bad)])
    write_rows(tmp_path / "t.jsonl", Header("commentary", suite="livesports3k-cc", model=bad, n_rows=1), [row])
    report([*files, tmp_path / "t.jsonl"], tmp_path / "r.html", incomplete=True)
    page = Page(tmp_path / "r.html")
    assert len(page.having("script")) == 2
    assert json.loads(page.data)[0]["rows"][0]["model"] == bad
    assert page.text.count(bad) >= 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of the bundled model on three events of its demonstration clip, judged and reported."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "videos").mkdir()
    shutil.copy(demo_clip_path(), folder / "videos/clip.mp4")
    write_video(folder / "videos/other.mp4", n_frames=60, fps=10)
    people = json.dumps([[1.0, 3.0, "Purple ball appears."], [3.5, 6.0, "It moves."]])
    events = [
        {"video_id": name, "event_id": i, "begin": 0.0, "end": 6.0, "video": f"{name}.mp4", "event_title": "Shapes",
         "event_asr": people, "event_asr_text": "Purple ball appears. It moves.", "preasr_text": "", "preasr": "[]"}
        for i, name in enumerate(("clip", "other", "gone"))
    ]  # fmt: skip
    annotations = write_json(folder / "LiveSports-3K-CC.json", events)
    theirs = [
        {"video_id": e["video_id"], "event_id": e["event_id"], "begin": 0.0, "end": 6.0, "pred": "Nothing."}
        for e in events
    ]
    opponent = write_lines(folder / "Other.jsonl", theirs)
    model = ["--model", str(bundled_model_path()), "--device", "cpu"]
    run = ["livesports3k-cc", "--protocol", "live", "--videos", str(folder / "videos"), "--out", str(folder / "out")]
    assert main(["evaluate", "run", *run, *model, "--annotations", str(annotations)]) == 1  # a video is missing
    mine = str(folder / "out/livesports3k-cc.jsonl")

    def prefers_words(_, body):
        text = body["messages"][0]["content"].split("---Commentary A---\n")[1]
        return Reply(f"Commentary {'B' if text.startswith('Nothing.') else 'A'} is better")

    with serve_chat(prefers_words) as server:
        judge = ["--judge", "local", "--base-url", server.url, "--out", str(folder / "verdicts.jsonl")]
        assert main(["evaluate", "judge", mine, str(opponent), *judge]) == 0
    files = [mine, str(folder / "verdicts.jsonl"), str(opponent)]
    page = ["--out", str(folder / "report.html"), "--videos", str(folder / "videos"), "--incomplete"]
    assert main(["evaluate", "report", *files, *page]) == 0
    return folder, files


def test_from_run_to_page(whole):
    folder, files = whole
    scores = {item.figures[0].name: item for item in score(files, incomplete=True)}
    assert set(scores) == {"win rate (N = 2 of 3)", "speak F1 (N = 2 of 3)"}
    assert scores["win rate (N = 2 of 3)"].figures[0].value == pytest.approx(100)
    page = Page(folder / "report.html")
    assert "speak F1 (N = 2 of 3)" in page.text
    assert "Latency" in page.text
    assert "LiveSports-3K CC: livecc-tiny against Other" in page.text
    assert len(page.having("div", **{"class": "timeline"})) == 2
    assert "Purple ball appears." in page.text
    said = [found["title"] for found in page.having("div", **{"class": "said model"})]
    assert any("Purple ball" in text for text in said)
    pictures = [found["src"] for found in page.having("img")]
    assert len(pictures) == 2 * 2  # one per two seconds, for two clips of 6 s
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)
    (shown,) = json.loads(page.data)
    assert (shown["opponent"], shown["judge"]) == ("Other", "local")
    assert [row["key"] for row in shown["rows"]] == ["clip_0", "other_1"]
    assert shown["rows"][0]["reference"] == "Purple ball appears. It moves."
    assert len(shown["rows"][0]["frames"]) == 6
    assert shown["rows"][0]["replies"] == ["Commentary A is better", "Commentary B is better"]


_PRESS = """
<script>
addEventListener("load", () => {
  document.getElementById("next").click();
  document.getElementById("choose-model").click();
  document.getElementById("previous").click();
  document.getElementById("choose-opponent").click();
});
</script>"""


def test_a_browser_opens_it_and_a_person_overrules_the_judge(whole, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium")
    page = tmp_path / "pressed.html"
    page.write_text((whole[0] / "report.html").read_text().replace("</body>", f"{_PRESS}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [browser, *options, "--virtual-time-budget=3000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    dom = done.stdout
    assert "You decided 2 rows; the judge agrees with you in 2 of 4 calls (50.0 %)." in dom
    assert '<h3 id="row-key">clip_0</h3>' in dom
    assert re.search(r'id="choose-opponent" class="chosen">Other<', dom)
    assert "1 of 2" in dom
