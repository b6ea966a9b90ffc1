"""`livecc card` adds a captioned clip, a sheet of its frames and scores to a folder's card."""

import shutil

import av
import pytest
import yaml
from huggingface_hub import ModelCard, RepoCard
from PIL import Image

from livecc_hf.assets import bundled_model_path, demo_clip_path
from livecc_hf.checkpoints.card_sections import set_section
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.cli.main import main
from livecc_hf.evaluation.reporting.score_files import write_scores
from livecc_hf.evaluation.scorers.figures import Figure, Score
from livecc_hf.publishing.contents import read_contents

HEAD = "---\nlicense: mit\nwidget:\n- text: mine\n  output:\n    url: mine.png\n---\n"
CARD = HEAD + "# Mine\n\nText.\n\n## Limits\n\nMany.\n"


@pytest.fixture
def model(tmp_path):
    folder = shutil.copytree(bundled_model_path(), tmp_path / "model", ignore=shutil.ignore_patterns("gallery.*"))
    (folder / "README.md").write_text(CARD)
    return folder


def test_a_clip_is_shown_with_the_words_of_the_folders_model(model):
    clip = demo_clip_path()
    assert main(["card", str(model), "--clip", str(clip), "--end", "6"]) == 0
    streamer, processor, _ = load_model_and_processor(model)
    said = [item.text for item in streamer.stream_generate(processor, str(clip), end_s=6, do_sample=False)]
    text = (model / "README.md").read_text()
    card = ModelCard(text)  # raises if the metadata has errors
    widget = card.data.to_dict()["widget"]
    assert widget[0] == {"text": " ".join(filter(None, said)), "output": {"url": "gallery.mp4"}}
    assert [item["output"]["url"] for item in widget] == ["gallery.mp4", "gallery.png", "mine.png"]
    assert text.count("<Gallery />") == 1 and text.index("# Mine") < text.index("<Gallery />") < text.index("Text.")
    with av.open(str(model / "gallery.mp4")) as copy:
        assert float(copy.duration / av.time_base) == pytest.approx(6, abs=0.2)
        assert sum(1 for _ in copy.decode(video=0)) > 50
    with Image.open(model / "gallery.png") as sheet:
        assert sheet.width > 400 and len(sheet.convert("L").getcolors(256)) > 50
    assert {"gallery.mp4", "gallery.png"} <= set(read_contents(model).files)  # so livecc push sends them
    before = yaml.safe_load(text.split("---")[1])
    assert main(["card", str(model), "--clip", str(clip), "--end", "6"]) == 0
    again = (model / "README.md").read_text()
    assert again == text and yaml.safe_load(again.split("---")[1]) == before


def test_scores_are_shown_with_protocol_and_n_before_the_limits(model, tmp_path):
    score = Score("livesports3k-qa", "once", "tiny", "rows", [Figure("overall", 41.5, 300, se=2.5)], 1)
    write_scores(tmp_path / "scores.json", [score])
    assert main(["card", str(model), "--scores", str(tmp_path)]) == 0
    text = RepoCard((model / "README.md").read_text()).text
    row = next(line for line in text.splitlines() if "41.50" in line)
    assert "once" in row and "300" in row and "2.50" in row
    assert text.index("Text.") < text.index("## Scores") < text.index("41.50") < text.index("## Limits")
    write_scores(tmp_path / "scores.json", [Score(score.suite, "live", "tiny", "rows", [Figure("all", 50.0, 9)], 1)])
    assert main(["card", str(model), "--scores", str(tmp_path / "scores.json")]) == 0
    text = (model / "README.md").read_text()
    assert "41.50" not in text and "50.00" in text and text.count("## Scores") == 1


def test_errors_are_one_line_and_change_nothing(model, tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "scores.json").write_text("{}")
    clip = str(demo_clip_path())
    for arguments, message in (
        ([str(model)], "nothing to add to the card"),
        ([str(model), "--scores", str(tmp_path), "--start", "5", "--query", "What?"], "--start and --query: only with"),
        ([str(tmp_path), "--clip", clip], "has no README.md"),
        ([str(model), "--clip", str(tmp_path / "none.mp4")], "none.mp4"),
        ([str(model), "--clip", str(tmp_path / "text.mp4")], "text.mp4"),
        ([str(model), "--clip", clip, "--start", "5", "--end", "5"], "the range is empty"),
        ([str(model), "--scores", str(tmp_path)], "holds no scores"),
        (
            [str(model), "--scores", str(model)],
            f"--scores {model} has no scores.json: expected what livecc evaluate score",
        ),
    ):
        assert main(["card", *arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert message in lines[-1] and len(lines) == 1
    assert (model / "README.md").read_text() == CARD
    assert not list(model.glob("*gallery*")) and not list(model.glob(".*partial*"))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_card_of_windows_keeps_its_line_ends(model, tmp_path, mark):
    (model / "README.md").write_bytes(mark + CARD.replace("\n", "\r\n").encode())
    write_scores(tmp_path / "scores.json", [Score("videomme", "livecc", "m", "rows", [Figure("overall", 41.5, 3)], 1)])
    assert main(["card", str(model), "--scores", str(tmp_path)]) == 0
    written = (model / "README.md").read_bytes()
    assert written.count(b"\n") == written.count(b"\r\n") > 20 and written.count(b"\r") == written.count(b"\n")
    assert written.startswith(b"---\r\nlicense: mit\r\n") and b"41.50" in written


def test_a_section_below_the_heading_leaves_the_line_above_it_empty():
    text = set_section("\n# A\n\nText.\n", "gallery", "x", "", after=5)
    assert text == "\n# A\n\n<!-- livecc:gallery -->\nx\n<!-- /livecc:gallery -->\n\nText.\n"
    assert set_section("Text.\n", "gallery", "x", "", after=0).startswith("<!-- livecc:gallery -->")


def test_a_section_is_added_at_the_end_by_default():
    text = set_section("# A\n", "scores", "x", "## Scores\n\n", before="\n## Limits")
    assert text == "# A\n\n## Scores\n\n<!-- livecc:scores -->\nx\n<!-- /livecc:scores -->\n"


BEGIN, END = "<!-- livecc:scores -->", "<!-- /livecc:scores -->"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"# A\n\n{BEGIN}\nold\n\nMy text.\n", f"{BEGIN} is there without {END}, "),
        (f"# A\n\nMy text.\n{END}\n", f"{END} is there without {BEGIN}, "),
        # The end of the first was lost, and a second section was added: the text between them is the user's.
        (f"# A\n\n{BEGIN}\nold\n\nMy text.\n\n{BEGIN}\nnew\n{END}\n", f"{BEGIN} occurs 2 times and {END} 1 times"),
        (f"# A\n\n{END}\nMy text.\n{BEGIN}\n", f"{END} is above {BEGIN}"),
    ],
)
def test_a_section_without_both_comments_is_not_replaced(model, text, message, tmp_path, capsys):
    with pytest.raises(ValueError, match=message):
        set_section(text, "scores", "x", "## Scores\n\n")
    (model / "README.md").write_text(text)
    score = Score("livesports3k-qa", "once", "tiny", "rows", [Figure("all", 41.5, 9)], 1)
    write_scores(tmp_path / "scores.json", [score])
    assert main(["card", str(model), "--scores", str(tmp_path)]) == 2
    assert f"{model / 'README.md'}: {message}" in capsys.readouterr().err
    assert (model / "README.md").read_text() == text
