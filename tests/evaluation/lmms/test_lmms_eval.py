"""The model and the task for lmms-eval, run by lmms-eval itself in a separate environment."""

import importlib.util
import json
import os
import subprocess
import sysconfig
import venv
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from backbones import BACKBONES, write_published

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.cli.main import main
from livecc_hf.evaluation import score
from livecc_hf.evaluation.running.commentary import Commentator, VideoSpan
from livecc_hf.evaluation.tasks.livesports_cc import query_of, read_event
from livecc_hf.evaluation.tasks.questions import FrameRule
from livecc_hf.questions.asking import answer
from livecc_hf.tiny.rendering import write_video
from livecc_hf.tiny.world import simulate

LMMS_EVAL = ("lmms-eval==0.7.3", "filelock<3.25")  # it imports a private module of filelock
QUESTION = "Commentate what happens."


def rows(n=2):
    return [
        {
            "video": "shapes.mp4",
            "video_id": "shapes",
            "event_id": number,
            "begin": 4 * number,
            "end": 4 * number + 8,
            "event_title": "Shapes that move",
            "preasr_text": "",
            "event_asr": json.dumps([[4 * number, 4 * number + 3, "It moves."]]),
            "event_asr_text": "It moves.",
            "question": QUESTION,
        }
        for number in range(n)
    ]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(simulate(5, 16), folder / "shapes.mp4")
    return folder


@pytest.fixture
def utils(capsys):
    assert main(["evaluate", "lmms-tasks"]) == 0
    path = Path(capsys.readouterr().out.strip()) / "livesports3k_cc/utils.py"
    assert path.with_name("livesports3k_cc.yaml").exists()
    spec = importlib.util.spec_from_file_location("lmms_task", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_model_is_registered():
    (point,) = entry_points(group="lmms_eval.models", name="livecc")
    assert point.value == "livecc_hf.evaluation.lmms:manifest"


def test_the_messages_of_the_task(utils, videos, monkeypatch):
    row = rows()[1]
    with pytest.raises(ValueError, match="LIVESPORTS3K_VIDEOS is not set"):
        utils.doc_to_messages(row)
    monkeypatch.setenv("LIVESPORTS3K_VIDEOS", str(videos))
    video, text = utils.doc_to_messages(row)[0]["content"]
    assert (video["url"], video["start_time"], video["end_time"]) == (str(videos / "shapes.mp4"), 4.0, 12.0)
    assert text["text"] == utils.doc_to_text(row) == query_of(read_event(row))
    assert utils.doc_to_target(row) == "It moves."
    with pytest.raises(FileNotFoundError, match=r"none\.mp4 is not in .*videos"):
        utils.doc_to_visual(row | {"video": "none.mp4"})


def test_the_metrics_of_the_task(utils, tmp_path):
    found = [utils.process_results(row, [text]) for row, text in zip(rows(), ("a b c d", "..."), strict=True)]
    made = [item["commentaries"] for item in found]
    assert utils.words_per_second(made) == 4 / 16
    assert utils.empty(made) == 0.5
    assert utils.write_commentaries(made, type("Args", (), {"output_path": str(tmp_path / "out")})) == 2
    figures = score(tmp_path / "out/livesports3k_cc.jsonl", incomplete=True)[0]
    assert next(item for item in figures.figures if "words a second" in item.name).value == 4 / 16


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """An environment with lmms-eval that also sees this environment's packages."""
    folder = tmp_path_factory.mktemp("lmms") / "env"
    venv.create(folder, with_pip=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (site / "behind.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    python = folder / "bin/python"
    made = subprocess.run([python, "-m", "pip", "install", "-q", *LMMS_EVAL], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"lmms-eval cannot be installed: {made.stderr[-500:]}")
    version = subprocess.run([python, "-c", "import av; print(av.__version__)"], capture_output=True, text=True)
    assert int(version.stdout.split(".")[0]) < 16, version
    return folder


def write_commentary_task(tasks, n):
    """Write a task with `n` synthetic rows, and return the lines of its config that locate the rows."""
    from livecc_hf.evaluation.lmms import tasks_folder

    tasks.mkdir()
    (tasks.parent / "rows.json").write_text(json.dumps(rows(n)))
    data = "dataset_path: json\ndataset_name: null\ntest_split: train\n"
    data += f"dataset_kwargs: {{data_files: {tasks.parent}/rows.json}}\n"
    published = tasks_folder() / "livesports3k_cc/livesports3k_cc.yaml"
    (tasks / "commentary.yaml").write_text(f"include: {published}\ntask: made_up_commentary\n{data}")
    return data


@pytest.fixture(params=BACKBONES)
def model_folder(request, tmp_path):
    """A model of each backbone: the bundled one, and published ones with random weights."""
    if request.param == "qwen2_vl":
        return bundled_model_path()
    return write_published(request.param, tmp_path / request.param, spread=0.15)


def run_lmms_eval(start, tasks, names, videos, model):
    """Run lmms-eval, and return what it prints."""
    folder = tasks.parent
    command = [
        *(*start, "eval", "--model", "livecc"),
        *("--model_args", f"pretrained={model},device=cpu,dtype=float32"),
        *("--tasks", names, "--include_path", tasks, "--log_samples", "--output_path", folder / "out"),
    ]
    variables = {"LIVESPORTS3K_VIDEOS": str(videos), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    variables |= {"ACCELERATE_USE_CPU": "true"}
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, timeout=900)
    said = ran.stdout + ran.stderr
    # lmms-eval exits with 0 even after an error.
    assert not ran.returncode and (folder / "out/livesports3k_cc.jsonl").exists(), said[-3000:]
    return said


@pytest.mark.slow
def test_several_processes_share_a_task(environment, videos, tmp_path):
    write_commentary_task(tmp_path / "tasks", 3)
    start = (environment / "bin/python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    said = run_lmms_eval(
        (*start, "-m", "lmms_eval"), tmp_path / "tasks", "made_up_commentary", videos, bundled_model_path()
    )
    assert "Running on rank 1" in said
    lines = [json.loads(line) for line in (tmp_path / "out/livesports3k_cc.jsonl").read_text().splitlines()]
    assert [line["event_id"] for line in lines] == [0, 1, 2]
    assert all(line["pred"] for line in lines)


@pytest.mark.slow
def test_lmms_eval_runs_it(model_folder, environment, videos, tmp_path):
    tasks = tmp_path / "tasks"
    data = write_commentary_task(tasks, 2)
    (tasks / "asks.py").write_text(
        "def visual(doc):\n    return []\n"
        "def messages(doc):\n"
        f"    video = dict(type='video', url={str(videos / 'shapes.mp4')!r}, start_time=0, end_time=6)\n"
        "    return [dict(role='user', content=[video, dict(type='text', text=doc['question'])])]\n"
        "def kept(doc, results):\n    return {'length': len(results[0])}\n"
    )
    (tasks / "question.yaml").write_text(
        f"task: made_up_question\n{data}output_type: generate_until\ndoc_to_text: question\ndoc_to_target: video\n"
        "doc_to_visual: !function asks.visual\ndoc_to_messages: !function asks.messages\n"
        "process_results: !function asks.kept\ngeneration_kwargs: {max_new_tokens: 8, temperature: 0, until: []}\n"
        "metric_list:\n  - {metric: length, aggregation: mean, higher_is_better: true}\n"
    )
    names = "made_up_commentary,made_up_question"
    said = run_lmms_eval((environment / "bin/lmms-eval",), tasks, names, videos, model_folder)
    model, processor, _ = load_model_and_processor(model_folder, "cpu", "float32")
    commentator = Commentator(model, processor, "live")
    wanted = [
        commentator.comment_clip(
            VideoSpan(videos / "shapes.mp4", event.row.begin_s, event.row.end_s, query_of(event)), FrameRule()
        ).text
        for event in map(read_event, rows())
    ]
    assert any(wanted)
    lines = (tmp_path / "out/livesports3k_cc.jsonl").read_text().splitlines()
    assert [json.loads(line)["pred"] for line in lines] == wanted
    assert "made_up_commentary" in said
    assert "words_per_second" in said
    (samples,) = (tmp_path / "out").rglob("*samples_made_up_question.jsonl")
    from livecc_hf.modeling.video_loading import LoadOptions

    reading = LoadOptions(start_s=0, end_s=6)
    expected = answer(model, processor, videos / "shapes.mp4", QUESTION, reading, max_new_tokens=8, do_sample=False)
    sample = json.loads(samples.read_text().splitlines()[0])
    assert expected in json.dumps(sample["filtered_resps"])


@pytest.mark.slow
def test_wrong_arguments_are_refused(environment):
    code = (
        "from livecc_hf.evaluation.lmms.model import LiveCC\n"
        "for keywords in ({'fps': 2}, {'batch_size': 4}):\n"
        "    try: LiveCC('x', **keywords)\n"
        "    except ValueError as error: print(error)\n"
    )
    ran = subprocess.run([environment / "bin/python", "-c", code], capture_output=True, text=True)
    assert "model_args has fps: livecc takes pretrained, device, dtype and max_pixels" in ran.stdout, ran.stderr
    assert "batch_size is 4" in ran.stdout
