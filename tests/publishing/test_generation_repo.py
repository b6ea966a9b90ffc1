"""Generation code for stock models: the files, and the commentary where livecc-hf is not installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

for _folder in (Path(__file__).parent, Path(__file__).parents[1]):
    sys.path.insert(0, str(_folder))
from backbones import BACKBONES, write_published
from hub_client import hub_environment, livecc
from hub_server import serve_hub

from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.cli.main import main
from livecc_hf.publishing.generation_repo import write_generation_repo

REFERENCE = Path(__file__).parents[1] / "data/reference"
OPTIONS = {"do_sample": False, "max_new_tokens": 6, "query": "What happens?"}
_BLOCKED = """
import json, sys
class _Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "livecc_hf": raise ModuleNotFoundError(name)
sys.meta_path.insert(0, _Blocked())
"""
COMPARE = """
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, Qwen2Config
repo, folder, clip, frames, options = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder).eval()
processor = AutoProcessor.from_pretrained(folder)
options = json.loads(options)
custom = {"custom_generate": repo, "trust_remote_code": True}
def said(video, **more):
    segments = model.generate(**custom, processor=processor, video=video, **more)
    return [[s.start_s, s.end_s, s.token_ids] for s in segments]
told = {}
text = processor(text="hello", return_tensors="pt")
plain = {"do_sample": False, "max_new_tokens": 5}
before = model.generate(**text, **plain)
told["file"] = said(clip, **options)
told["small"] = said(torch.load(frames), **options)
if model.config.model_type == "qwen2_vl":
    told["sequential"] = said(clip, position_scheme="sequential", start_s=1.0, **options)
told["sampled"] = said(clip, do_sample=True, temperature=1.5, seed=7, max_new_tokens=6)
after = model.generate(**text, **plain, **custom, processor=processor)
told["plain"] = [before.tolist(), after.tolist(), model.generate(**text, **plain).tolist()]
told["side"] = processor.tokenizer.padding_side
told["errors"] = {}
def refused(name, model=model, **given):
    try:
        list(model.generate(**custom, **({"video": clip, "processor": processor} | given)))
    except (ValueError, OSError) as error:
        told["errors"][name] = str(error)
refused("no processor", processor=None)
refused("tokenizer", processor=processor.tokenizer)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
other = AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=32, num_key_value_heads=2, **sizes)).eval()
refused("other model", other)
refused("option", tempo=1)
refused("streamer", stopping_criteria=[lambda ids, scores: True])
refused("scheme", position_scheme="flat" if model.config.model_type == "qwen2_vl" else "reference")
refused("grammar", grammar="none")
refused("video", video="nowhere.mp4")
refused("training", model.train())
print(json.dumps(told))
"""


def run_fresh(code: str, home: Path, *argv: object) -> str:
    """Run code in a process that cannot import livecc-hf and has an empty cache; return its output."""
    env = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKED + code, *map(str, argv)],
        env=env, cwd=home.parent, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    return write_generation_repo(tmp_path_factory.mktemp("generate") / "live")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        *[(name, "qwen") for name in BACKBONES],
        *[(name, "tiny-livecc") for name in BACKBONES[:2]],
        ("qwen2_5_vl", "StreamingVLM"),
    ],
)
def test_a_stock_model_generates_what_ours_generates(repo, backbone, name, tmp_path):
    """The name decides the default position scheme and grammar; frames with too few pixels are enlarged."""
    folder = write_published(backbone, tmp_path / name)
    clip = REFERENCE / "clip.mp4"
    frames = torch.randint(0, 256, (9, 3, 56, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    torch.save(frames, tmp_path / "frames.pt")
    told = json.loads(
        run_fresh(COMPARE, tmp_path / "hf", repo, folder, clip, tmp_path / "frames.pt", json.dumps(OPTIONS))
    )

    def said(video, scheme=None, **options):
        model, processor, info = load_model_and_processor(folder, device="cpu", position_scheme=scheme)
        known = "reference" if (backbone, name) == ("qwen2_vl", "tiny-livecc") else "mrope"
        assert scheme or info.position_scheme == known
        assert processor.grammar == ("streamingvlm" if name == "StreamingVLM" else "livecc")
        segments = model.stream_generate(processor, video, **options)
        return [[s.start_s, s.end_s, list(s.token_ids)] for s in segments]

    expected = {
        "file": said(clip, **OPTIONS),
        "small": said(frames, **OPTIONS),
        "sampled": said(clip, do_sample=True, temperature=1.5, seed=7, max_new_tokens=6),
    }
    if backbone == "qwen2_vl":
        expected["sequential"] = said(clip, "sequential", start_s=1.0, **OPTIONS)
    assert {key: told[key] for key in expected} == expected
    different = {json.dumps([s[2] for s in segments]) for segments in expected.values()}
    assert len(different) == len(expected)  # the options have an effect
    before, after, stock = told["plain"]
    assert before == after == stock
    assert told["side"] == "right"
    for key, part in {
        "no processor": "processor is missing: give the model's own",
        "tokenizer": "processor is a Qwen2",
        "other model": "a Qwen2ForCausalLM of type 'qwen2': live commentary needs a model of type qwen2_vl or",
        "option": "unknown stream option 'tempo'",
        "streamer": "stopping_criteria cannot be combined with video=: leave it out",
        "scheme": f"position_scheme={'flat' if backbone == 'qwen2_vl' else 'reference'!r} is ",
        "grammar": "grammar='none' is unknown: expected one of livecc, streamingvlm",
        "video": "nowhere.mp4",
        "training": "the model is in training mode",
    }.items():
        assert part in told["errors"][key] and "\n" not in told["errors"][key]


@pytest.mark.slow
def test_the_usage_of_the_card_works_from_a_hub(repo, tmp_path):
    with serve_hub() as hub:
        done = livecc(hub.url, tmp_path / "home", "push", repo, "me/live")
        assert done.returncode == 0, done.stderr
        assert "loads without livecc-hf (generate)" in done.stderr
        repository = hub.repositories["models/me/live"]
        [code] = re.findall(r"```python\n(.*?)```", repository.files["README.md"].decode(), re.DOTALL)
        assert 'custom_generate="me/live"' in code and f'revision="{repository.history[0]}"' in code
        for old, new in {
            "chenjoya/LiveCC-7B-Instruct": str(REFERENCE / "checkpoint"),
            'device_map={"": 0}': 'device_map="cpu"',
            "match.mp4": str(REFERENCE / "clip.mp4"),
        }.items():
            assert old in code
            code = code.replace(old, new)
        (tmp_path / "usage.py").write_text(_BLOCKED + code)
        env = hub_environment(hub.url, tmp_path / "other")
        ran = subprocess.run(
            [sys.executable, tmp_path / "usage.py"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert len(ran.stdout.splitlines()) > 3 and ran.stdout.startswith("    0.0s")


def test_the_folder_holds_what_it_needs_and_may_be_pushed(tmp_path, capsys):
    out = tmp_path / "new" / "live"
    assert main(["generate-repo", str(out)]) == 0
    assert f"livecc push {out} USER/NAME" in capsys.readouterr().err
    code = {path.stem: path.read_text() for path in (out / "custom_generate").glob("*.py")}
    needed = {name for text in code.values() for name in re.findall(r"(?m)^\s*from \.(\w+) import", text)}
    assert set(code) == needed | {"generate"}
    requirements = (out / "custom_generate/requirements.txt").read_text().split()
    assert requirements[0] == "torch" and any(re.fullmatch(r"transformers>=[\d.]+", one) for one in requirements)
    assert main(["push", str(out), "me/live", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "(generation code) -> model me/live" in printed and "checked card, code and weights" in printed


def test_an_unusable_output_folder_is_a_one_line_error(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    assert main(["generate-repo", str(tmp_path / "empty")]) == 0
    capsys.readouterr()
    for out, part in {
        tmp_path: "exists and is not an empty folder: choose another, or remove it",
        tmp_path / "file": "exists and is not an empty folder",
        tmp_path / "file" / "live": f"cannot be created: {tmp_path / 'file'} is not a folder",
    }.items():
        assert main(["generate-repo", str(out)]) == 2
        error = capsys.readouterr().err
        assert part in error and error.startswith("livecc: error: ") and error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"
