"""What a user of the Hub runs: a copied folder, a fresh process without this package, `trust_remote_code=True`."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from media import write_video
from safetensors.torch import load_file

from livecc_hf import modeling
from livecc_hf.assets import bundled_model_path, demo_clip_path
from livecc_hf.modeling import LiveCCForConditionalGeneration, StreamingProcessor

AUTO_CLASSES = {
    "AutoConfig",
    "AutoModel",
    "AutoModelForImageTextToText",
    "AutoModelForMultimodalLM",
    "AutoProcessor",
    "AutoVideoProcessor",
}


@pytest.fixture(scope="module")
def hub_folder(make_model, processor, tmp_path_factory):
    saved = tmp_path_factory.mktemp("saved")
    make_model("mrope").save_pretrained(saved)
    processor.save_pretrained(saved)
    copied = tmp_path_factory.mktemp("copied") / "my-livecc"
    shutil.copytree(saved, copied)
    return copied


def run_python(code: str, tmp_path, *args) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter that cannot import livecc_hf and has an empty module cache."""
    blocked = (
        "import sys\n"
        "class _Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'livecc_hf': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, _Blocked())\n"
    )
    env = {
        "PATH": "/usr/bin:/bin",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "2",
    }
    return subprocess.run(
        [sys.executable, "-c", blocked + textwrap.dedent(code), *map(str, args)],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_auto_map_names_every_auto_class(hub_folder):
    maps = [
        json.loads((hub_folder / name).read_text()).get("auto_map", {})
        for name in ("config.json", "processor_config.json")
    ]
    assert set(maps[0]) == AUTO_CLASSES
    assert "AutoProcessor" in maps[1]
    for reference in [ref for auto_map in maps for ref in auto_map.values()]:
        module, name = reference.split(".")
        assert f"class {name}" in (hub_folder / f"{module}.py").read_text()


def test_the_folder_contains_the_code_without_interfaces_for_type_checkers(hub_folder):
    code = {path.name for path in Path(modeling.__file__).parent.glob("*.py")}
    assert {path.name for path in hub_folder.glob("*.py")} == code - {"__init__.py", "interfaces.py"}


def test_loads_streams_and_resaves_without_the_package(hub_folder, tmp_path, make_model, processor, load_frames):
    code = """
        import sys, torch, json
        from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoVideoProcessor
        first, second = sys.argv[1:3]
        for cls in (AutoModel, AutoModelForImageTextToText):
            model = cls.from_pretrained(first, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(first, trust_remote_code=True)
        video_processor = AutoVideoProcessor.from_pretrained(first, trust_remote_code=True)
        config = AutoConfig.from_pretrained(first, trust_remote_code=True)
        model.save_pretrained(second)
        processor.save_pretrained(second)
        again = AutoModel.from_pretrained(second, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(second, trust_remote_code=True)
        frames = torch.load(sys.argv[3])
        stream = again.start_stream(processor, query="Comment.", do_sample=False, max_pixels=50176)
        segments = stream.push(frames) + stream.finish()
        shown = [{"type": "video", "video": sys.argv[4]}, {"type": "text", "text": "What is it?"}]
        asked = processor.apply_chat_template(
            [{"role": "user", "content": shown}], tokenize=True, return_dict=True, add_generation_prompt=True,
            return_tensors="pt",
        )
        answer = again.generate(**asked, do_sample=False, max_new_tokens=4)[0, asked["input_ids"].shape[1]:]
        assert "livecc_hf" not in sys.modules
        print(json.dumps({
            "types": [type(x).__name__ for x in (model, processor, video_processor, config)],
            "scheme": again.config.position_scheme,
            "segments": [[s.start_s, s.end_s, s.text, list(s.token_ids)] for s in segments],
            "asked": [asked["input_ids"].tolist(), asked["video_grid_thw"].tolist(), answer.tolist()],
            "same": all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values())),
        }))
    """
    frames = load_frames("live_cc")[:12, :, :96, :128].clone()
    torch.save(frames, tmp_path / "frames.pt")
    video = write_video(tmp_path / "v.mp4", n_frames=30, fps=10)
    done = run_python(code, tmp_path, hub_folder, tmp_path / "resaved", tmp_path / "frames.pt", video)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["types"] == [
        "LiveCCForConditionalGeneration", "StreamingProcessor", "LiveCCVideoProcessor", "LiveCCConfig"
    ]  # fmt: skip
    assert result["scheme"] == "mrope"
    assert result["same"]
    stream = make_model("mrope").start_stream(processor, query="Comment.", do_sample=False, max_pixels=50176)
    expected = [[s.start_s, s.end_s, s.text, list(s.token_ids)] for s in stream.push(frames) + stream.finish()]
    assert result["segments"] == expected
    ids, grid, answer = result["asked"]
    shown = [{"type": "video", "video": str(video)}, {"type": "text", "text": "What is it?"}]
    asked = processor.apply_chat_template(
        [{"role": "user", "content": shown}], tokenize=True, return_dict=True, add_generation_prompt=True,
        return_tensors="pt",
    )  # fmt: skip
    assert (ids, grid) == (asked["input_ids"].tolist(), asked["video_grid_thw"].tolist())
    assert grid[0][0] == 3
    model = make_model("mrope")
    assert model.generate(**asked, do_sample=False, max_new_tokens=4)[0, len(ids[0]) :].tolist() == answer
    resaved = {path.name for path in (tmp_path / "resaved").iterdir()}
    assert {path.name for path in hub_folder.iterdir()} <= resaved


def test_pipelines_answer_about_a_video_without_the_package(tmp_path):
    code = """
        import json, sys
        from transformers import AutoModelForMultimodalLM, pipeline
        folder, video = sys.argv[1:]
        shown = [{"type": "video", "video": video}, {"type": "text", "text": "What is it?"}]
        answers = {}
        for task in ("image-text-to-text", "any-to-any"):
            pipe = pipeline(task, model=folder, trust_remote_code=True)
            said = pipe(text=[{"role": "user", "content": shown}], max_new_tokens=6, return_full_text=False)
            answers[task] = said[0]["generated_text"]
        model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
        assert "livecc_hf" not in sys.modules
        print(json.dumps([answers, type(model).__name__]))
    """
    done = run_python(code, tmp_path, bundled_model_path(), demo_clip_path())
    assert done.returncode == 0, done.stderr[-2000:]
    answers, name = json.loads(done.stdout.splitlines()[-1])
    assert name == "LiveCCForConditionalGeneration"
    assert answers["any-to-any"] == answers["image-text-to-text"] and "triangle" in answers["any-to-any"]


def test_an_older_transformers_is_one_clear_line(tmp_path):
    code = """
        import sys
        from transformers import AutoConfig, AutoModel, AutoProcessor, AutoVideoProcessor
        sys.modules["transformers"].__version__ = "5.16.2"  # what it was at first is another object by now
        for cls in (AutoConfig, AutoModel, AutoProcessor, AutoVideoProcessor):
            try:
                cls.from_pretrained(sys.argv[1], trust_remote_code=True)
            except ImportError as error:
                print(error)
    """
    done = run_python(code, tmp_path, bundled_model_path())
    assert done.returncode == 0, done.stderr[-2000:]
    line = (
        'LiveCC\'s code needs transformers 5.17 or newer, but 5.16.2 is installed: pip install -U "transformers>=5.17"'
    )
    assert done.stdout.splitlines() == [line] * 4


@pytest.mark.slow
def test_without_pyav_frames_still_stream_and_files_say_what_to_install(hub_folder, tmp_path):
    code = """
        import sys, torch
        sys.modules["av"] = None
        from transformers import AutoModel, AutoProcessor
        model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
        frames = torch.zeros(6, 3, 56, 56, dtype=torch.uint8)
        assert len(list(model.stream_generate(processor, frames, do_sample=False))) == 1
        open("video.mp4", "wb").write(b"x")
        try:
            list(model.stream_generate(processor, "video.mp4"))
        except ImportError as error:
            print(error)
    """
    done = run_python(code, tmp_path, hub_folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pip install av" in done.stdout


@pytest.mark.slow
def test_loading_without_trust_remote_code_is_refused(hub_folder, tmp_path):
    code = """
        import sys
        from transformers import AutoModel, AutoProcessor
        for cls in (AutoModel, AutoProcessor):
            try:
                cls.from_pretrained(sys.argv[1])
            except ValueError as error:
                assert "trust_remote_code" in str(error), error
            else:
                sys.exit(f"{cls.__name__} ran the folder's code without being trusted to")
        print("refused")
    """
    done = run_python(code, tmp_path, hub_folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("refused")


def test_saving_and_loading_is_exact(hub_folder, make_model, processor):
    model, again = make_model("mrope"), LiveCCForConditionalGeneration.from_pretrained(hub_folder)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    # Names as the modules have them: what Trainer resumes from without dropping weights.
    assert set(load_file(hub_folder / "model.safetensors")) == set(model.state_dict())
    loaded = StreamingProcessor.from_pretrained(hub_folder)
    for part in ("image_processor", "video_processor"):
        saved, original = getattr(loaded, part).to_dict(), getattr(processor, part).to_dict()
        assert {k: v for k, v in saved.items() if k != "auto_map"} == {
            k: v for k, v in original.items() if k != "auto_map"
        }
    assert loaded.tokenizer("Time=3.0-4.0s ...")["input_ids"] == processor.tokenizer("Time=3.0-4.0s ...")["input_ids"]


def test_saving_in_the_published_layout_loads_again(make_model, published_checkpoint, tmp_path):
    make_model("mrope").save_pretrained(tmp_path, save_original_format=True)
    assert set(load_file(tmp_path / "model.safetensors")) == set(load_file(published_checkpoint / "model.safetensors"))
    again = LiveCCForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in make_model("mrope").state_dict().items())


def test_the_default_query_is_saved_with_the_processor(processor, tmp_path, published_checkpoint):
    own = StreamingProcessor.from_pretrained(published_checkpoint, default_query="Narrate.")
    own.save_pretrained(tmp_path)
    assert StreamingProcessor.from_pretrained(tmp_path).default_query == "Narrate."
