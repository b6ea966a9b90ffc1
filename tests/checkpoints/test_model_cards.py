"""Every card of the package parses, keeps the facts of its source's card, and has a snippet that runs."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, RepoCard

from livecc_hf.assets import bundled_model_path, demo_clip_path
from livecc_hf.checkpoints.adapters import save_adapter_files
from livecc_hf.checkpoints.card_sections import facts_table
from livecc_hf.checkpoints.cards import CardFacts, build_card, update_training
from livecc_hf.checkpoints.convert import convert_checkpoint
from livecc_hf.checkpoints.loading import load_model_and_processor

SOURCE = """---
license: other
license_name: tiny-license
license_link: https://example.org/license
language: [en, de]
datasets: [owner/clips, owner/more]
base_model: owner/base
widget: [{text: no}]
---
# Source
"""


def make_source(folder: Path) -> Path:
    """Return a folder with the bundled model's files and another card."""
    folder.mkdir(parents=True)
    for path in bundled_model_path().iterdir():
        if path.name != "README.md":
            (folder / path.name).symlink_to(path)
    (folder / "README.md").write_text(SOURCE)
    return folder


def head(folder: Path) -> dict:
    return ModelCard.load(folder / "README.md").data.to_dict()


def test_a_converted_model_keeps_the_facts_of_its_sources_card(tmp_path):
    source = make_source(tmp_path / "it's: a #source")
    data = head(out := convert_checkpoint(source, tmp_path / "out"))
    assert (data["license"], data["license_name"]) == ("other", "tiny-license")
    assert data["license_link"] == "https://example.org/license"
    assert (data["language"], data["datasets"]) == (["en", "de"], ["owner/clips", "owner/more"])
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "video-text-to-text")
    assert data["base_model"] == "owner/base"  # the same weights
    assert "base_model_relation" not in data and "widget" not in data
    text = (out / "README.md").read_text()
    assert "# it's: a #source, for live commentary" in text and "https://arxiv.org/abs/2504.16030" in text
    assert "Add what it is for, how it was evaluated." in text  # nothing else is missing
    assert str(tmp_path) not in text


def test_an_adapter_names_its_relation_and_its_bases_licence_but_not_the_bases_base(tmp_path):
    source = make_source(tmp_path / "base")
    model, processor, _ = load_model_and_processor(source, device="cpu")
    training = {"steps": "5", "data": "a|b"}
    save_adapter_files(tmp_path / "adapter", model.config, processor, source, training=training, datasets=["me/own"])
    data = head(tmp_path / "adapter")
    assert (data["library_name"], data["base_model_relation"], data["license_name"]) == (
        "peft", "adapter", "tiny-license"
    )  # fmt: skip
    assert "base_model" not in data and "lora" in data["tags"]
    assert data["datasets"] == ["owner/clips", "owner/more", "me/own"]
    text = (tmp_path / "adapter" / "README.md").read_text()
    assert "| steps | 5 |\n| data | a\\|b |\n" in text and str(tmp_path) not in text
    assert 'base = "path/to/base"' in text


def test_a_base_on_the_hub_is_pinned_and_one_without_a_card_leaves_the_licence_to_the_publisher():
    facts = CardFacts("x", "y.", "mrope", source="owner/nowhere", relation="adapter", source_revision="0a1b")
    card = build_card(facts)
    assert card.data.to_dict()["base_model"] == "owner/nowhere" and card.data.get("license") is None
    assert 'config=config, revision="0a1b")' in card.text
    assert "Add the licence, the languages it speaks, what it was trained on, what it is for" in card.text


@pytest.mark.parametrize("broken", ["---\nlicense: [\n---\n", "no head at all", "\udcff"])
def test_an_unreadable_card_is_ignored(tmp_path, broken):
    (tmp_path / "README.md").write_bytes(broken.encode("utf-8", "surrogateescape"))
    card = build_card(CardFacts("x", "y.", "mrope", source=str(tmp_path), relation="finetune"))
    assert card.data.get("license") is None and "## Limits and risks" in card.text


def bundled_card() -> RepoCard:
    return RepoCard((bundled_model_path() / "README.md").read_text())


def test_the_bundled_models_card_shows_what_the_model_says_of_the_sample_clip():
    model, processor, _ = load_model_and_processor(bundled_model_path())
    said = [s.text for s in model.stream_generate(processor, demo_clip_path(), do_sample=False) if s.text]
    clip, sheet = bundled_card().data.to_dict()["widget"]
    assert (clip["output"]["url"], sheet["output"]["url"]) == ("gallery.mp4", "gallery.png")
    assert " ".join(said).startswith(clip["text"].removesuffix(" ...")) and len(clip["text"]) > 50
    assert all((bundled_model_path() / shown["output"]["url"]).stat().st_size > 10_000 for shown in (clip, sheet))


def test_the_bundled_models_card_is_the_templates_and_its_snippet_runs_without_the_package(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "livecc-tiny"))
    import package

    model, processor, _ = load_model_and_processor(bundled_model_path(), device="cpu")
    card = bundled_card()
    card.data.pop("widget")
    text = re.sub(r"<!-- livecc:gallery -->.*<!-- /livecc:gallery -->\n\n", "", str(card), flags=re.DOTALL)
    built = str(build_card(package.card_facts(model)))
    assert text.replace("---\n# ", "---\n\n# ") == built and "<Gallery />" in bundled_card().text
    assert (head(bundled_model_path())["license"], head(bundled_model_path())["language"]) == ("apache-2.0", ["en"])
    assert "Before you publish" not in text
    code = text.split("```python\n")[1].split("```")[0]
    assert "path/or/hub-id" in code and '"revision": "COMMIT"' in code
    code = code.replace("path/or/hub-id", str(bundled_model_path())).replace("video.mp4", str(demo_clip_path()))
    blocked = """
        import sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split('.')[0] == 'livecc_hf': raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Blocked())
        import torch
        torch.manual_seed(0)
    """
    env = {"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(blocked) + code],
        capture_output=True, text=True, timeout=120, env=env, cwd=tmp_path, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    torch.manual_seed(0)
    segments = model.stream_generate(processor, demo_clip_path())
    assert done.stdout.splitlines() == [f"{s.start_s:7.1f}s  {s.text}" for s in segments]


def test_the_training_section_is_replaced_only_if_both_its_comments_are_there(tmp_path, caplog):
    path, begin, end = tmp_path / "README.md", "<!-- livecc:training -->", "<!-- /livecc:training -->"
    path.write_text(f"# A\n\n{begin}\n{facts_table({'steps': 1})}\n{end}\n\nMine.\n")
    update_training(tmp_path, {"steps": 2})
    assert path.read_text() == f"# A\n\n{begin}\n{facts_table({'steps': 2})}\n{end}\n\nMine.\n"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    update_training(tmp_path, {"steps": 2.5})
    assert path.read_bytes().count(b"\n") == path.read_bytes().count(b"\r\n") and b"| 2.5 |" in path.read_bytes()
    broken = path.read_text().replace(end, "")
    path.write_text(broken)
    update_training(tmp_path, {"steps": 3})
    assert path.read_text() == broken and f"{path} does not get the facts of this run: {begin} is there" in caplog.text
