"""Recipes, options and the command line."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from manifests import write_manifest
from runs import options_for, quiet_build

from livecc_hf.cli.main import main
from livecc_hf.production.options import load_options

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes" / "data").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse_and_say_how_they_are_run(path):
    options = load_options(path)
    stages = options.make_stages()
    assert len(stages) >= 6
    assert options.folder_options().overwrite
    assert options.about(stages, {}).name
    assert f"livecc data build --config recipes/data/{path.name}" in path.read_text()


def test_recipes_have_the_papers_thresholds():
    pretrain = {stage.name: stage for stage in load_options(ROOT / "recipes/data/pretrain.yaml").make_stages()}
    sft = {stage.name: stage for stage in load_options(ROOT / "recipes/data/sft.yaml").make_stages()}
    assert (pretrain["text_loss"].min_loss, pretrain["text_loss"].max_loss, sft["text_loss"].max_loss) == (1.5, 6.5, 5)
    assert pretrain["talking_head"].max_probability == sft["talking_head"].max_probability == 0.3
    assert len(sft["category"].keep) == 7


def test_the_command_line_goes_over_the_recipe(tmp_path):
    recipe = ROOT / "recipes/data/pretrain.yaml"
    options = load_options(
        recipe,
        ["text_loss.max_loss=5", "limit=10", "dataset.license=cc-by-4.0", "report.frames=0", "keep_going=true"],
        "metadata,text_loss",
        out=str(tmp_path),
        engine=None,
    )
    metadata, text_loss = options.make_stages()
    assert (metadata.name, text_loss.max_loss, text_loss.min_loss) == ("metadata", 5, 1.5)
    assert (options.limit, options.keep_going, options.out, options.engine) == (10, True, str(tmp_path), "local")
    assert options.about([], {}).license == "cc-by-4.0"
    assert (options.report_options().frames, options.report_options().samples) == (0, 6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["limt=3"], "unknown option 'limt': did you mean limit?"),
        (["text_loss.max=5"], "stage text_loss has no threshold 'max': it has: model, min_loss"),
        (["asr.model=tiny"], "this run has no stage 'asr'; its stages are metadata, captions"),
        (["dataset.licence=mit"], "unknown dataset key 'licence': did you mean license?"),
        (["dataset.clips_per_shard=big"], "dataset.clips_per_shard is 'big': expected a whole number"),
        (["dataset.video_feature=1"], "dataset.video_feature is 1: expected true or false"),
        (["dataset.sources=3"], "dataset.sources is 3: expected a list of strings, such as [3]"),
        (["dataset.language=[1]"], "dataset.language is [1]: expected a list of strings"),
        (["ray_address=auto"], "ray_address=auto: not with engine=local, which does not use it; leave it out"),
        (["report.sample=3"], "unknown report key 'sample': did you mean samples?"),
        (["report.frames=many"], "report.frames is 'many': expected a whole number"),
        (["report.frame_px=2"], "report.frame_px is 2: expected 16 or more, such as 192"),
        (["dataset.name=12"], "dataset.name is 12: expected text; put it in quotes"),
        (["item_timeout_s=-1"], "item_timeout_s is -1: expected seconds, or 0 for no limit"),
        (["language.language=xx"], "language is 'xx': expected the code of a language that CLD3 knows, one of af, am"),
        (["metadata.language=klingon"], "stage metadata: language is 'klingon': expected a language code such as en"),
        (
            ["captions.round_s=0.3"],
            "stage captions: round_s is 0.3: expected 0, or a step that divides a second evenly",
        ),
        (["limit"], "'limit' is not an option: expected key=value"),
        (["limit=many"], "limit is 'many': expected a whole number or null"),
        (["language.language=no"], "language.language is False: expected text; put it in quotes"),
        (["keep_going=1"], "keep_going is 1: expected true or false"),
        (["limit=0"], "limit is 0: expected 1 or more"),
        (["engine=spark"], "engine is 'spark': expected one of local, ray"),
        (["stages=a"], "cannot replace the recipe's stages: choose among them with --stages"),
        (["text_loss.max_loss=[1"], "is not YAML"),
    ],
)
def test_unknown_and_wrong_options_are_refused(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_options(ROOT / "recipes/data/pretrain.yaml", overrides).make_stages()


def test_a_prompt_without_a_model_is_refused_before_any_stage_runs():
    with pytest.raises(ValueError, match=r"prompt\.model is not given"):
        load_options(ROOT / "recipes/data/sft.yaml", ["prompt.model=''"]).make_stages()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_card_names_the_language_that_was_kept(recipe):
    for overrides, languages in (
        ([], ["en"]),
        (["language.language=de"], ["de"]),
        (["language.language=de", "dataset.language=[de, en]"], ["de", "en"]),
    ):
        options = load_options(recipe, overrides)
        assert list(options.about(options.make_stages(), {}).language) == languages
    bare = load_options(recipe, (), "metadata")
    assert list(bare.about(bare.make_stages(), {}).language) == []  # nobody has looked


def test_wrong_recipes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="recipe .* does not exist"):
        load_options(tmp_path / "none.yaml")
    for text, message in (
        ("[1]", "holds a list: expected lines"),
        ("a: [", "is not YAML of plain values: line 1, column 5"),
        ("", "is empty: expected lines"),
        ("stages: 3", "stages is 3: expected a mapping"),
        ("stages: {captions: 3}", "stage captions is 3: expected a mapping"),
        ("stages:\n  language:\n  captions:\n  language:", "has the key 'language' (line 4) twice, of which YAML uses"),
        ("input: a\nout: b", "no stages are given"),
        ("stages: [captions]\nout: b", "input is not given"),
    ):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            load_options(tmp_path / "r.yaml")
    with pytest.raises(ValueError, match="--stages names 'asr', which this run does not have"):
        load_options(ROOT / "recipes/data/pretrain.yaml", (), "asr")


def test_what_would_fail_at_the_end_fails_at_the_start(tmp_path):
    for dataset, message in (
        ({"videos": "move"}, "videos='move'"),
        ({"sources": "mine"}, "expected a list of strings"),
    ):
        with pytest.raises(ValueError, match=message):
            quiet_build(options_for(tmp_path, ["a"], dataset=dataset))
    assert not (tmp_path / "out").exists()


def test_the_command_line_builds(tmp_path, capsys):
    write_manifest(tmp_path / "m.jsonl", ["a"] * 5)
    (tmp_path / "r.yaml").write_text("stages: {pretrain_clips: {min_s: 20}}")
    arguments = [
        "--config",
        str(tmp_path / "r.yaml"),
        "--input",
        str(tmp_path / "m.jsonl"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(["data", "build", *arguments, "pretrain_clips.max_s=100", "--limit", "2", "workers=1"]) == 0
    said = capsys.readouterr().err
    assert "wrote 3 clips to" in said
    assert "report.html" in said
    assert main(["data", "build", *arguments, "pretrain_clips.maxs=100"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "stage pretrain_clips has no threshold 'maxs': did you mean max_s?" in said
    with pytest.raises(SystemExit) as stop:
        main(["data"])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build"], "input is not given"),
        (["build", "--config"], "argument --config: expected one argument"),
        (["fetch"], "the following arguments are required: URLS_FILE, OUT"),
        (["push"], "the following arguments are required: FOLDER, USER/NAME"),
        (["fetch", "a=b.txt", "out"], "a=b.txt does not exist"),
        (["push", "a=b", "me/clips"], "a=b is not a dataset folder"),
    ],
    ids=" ".join,
)
def test_words_that_are_missing_and_names_that_look_like_options(words, message, capsys):
    try:
        assert main(["data", *words]) == 2
    except SystemExit as stop:  # argparse's own errors
        assert stop.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_fetch_and_push_on_the_command_line_name_what_is_wrong(tmp_path, capsys):
    assert main(["data", "fetch", str(tmp_path / "none.txt"), str(tmp_path)]) == 2
    assert "expected a text file with one URL per line" in capsys.readouterr().err
    assert main(["data", "push", str(tmp_path), "user/name"]) == 2
    assert "is not a dataset folder" in capsys.readouterr().err
