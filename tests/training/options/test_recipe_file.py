"""Reading recipe files: bad input gives a one-line error."""

import os
import subprocess
import sys

import pytest

from livecc_hf.cli.main import main
from livecc_hf.training.options.recipe import parse
from livecc_hf.training.options.recipe_file import read_written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object:os.system {}", r"line 1, column 4: could not determine a constructor for the tag"),
        ("seed: 1\nmax_steps: !number 5", r"line 2, column 12: .*'!number'"),
        ("seed: !!int five", r"is not YAML of plain values: invalid literal"),
        ("seed: 2026-13-45", r"is not YAML of plain values: month must be"),
        ("a: [1", r"line 1, column 6: expected ',' or '\]'"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("[" * 5000, "is not YAML of plain values"),
        ("- a\n- b", "holds a list: expected lines of key: value"),
        ("", "is empty: expected lines"),
        ("learning_rate 1e-5", "holds text: expected lines"),
        ("1: a", "has the key 1: expected the name"),
        ("? [a, b]\n: c", "is not YAML of plain values: line 1, column 3: found unhashable key"),
        ("env: LANG", "env is 'LANG': expected a mapping"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_a_one_line_error(tmp_path, text, message, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse(["--config", str(path)])
    assert main(["train", "--config", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_recipe_that_is_no_text(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"seed: 1\nname: \xff\xfe")
    with pytest.raises(ValueError, match="recipe.yaml is not YAML of plain values"):
        parse(["--config", str(path)])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("learning_rate=fast", "learning_rate.*invalid float value: 'fast'.*--help"),
        ("min_pixels=0", "min_pixels=0: expected a whole number at least 1"),
        ("max_pixels=0", "max_pixels=0: expected a whole number at least 1"),
        ("max_length=0", "max_length is 0: expected at least 1 token"),
        ("bf16=perhaps", "bf16.*Truthy value expected: got perhaps"),
        ("lerning_rate=1", "unknown option lerning_rate: did you mean learning_rate"),
        ("max_step=3", r"unknown option max_step: did you mean max_steps\?"),  # no abbreviation either
        ("learningrate", "'learningrate' belongs to no option: options are written key=value"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(recipe, given, message, capsys):
    path = recipe()
    with pytest.raises(ValueError, match=message):
        parse(["--config", path, given])
    assert main(["train", "--config", path, given]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no recipe is given: expected --recipe NAME"),
        (["max_steps=2"], "no recipe is given"),
        (["mine.yaml"], "'mine.yaml' belongs to no option: a recipe of your own is given as --config mine.yaml"),
        (
            ["--config", "absent.yaml"],
            "recipe absent.yaml does not exist: expected a YAML file such as recipes/own",
        ),
        (["--config", "broken.yaml"], "broken.yaml is not YAML of plain values: line 1"),
    ],
)
def test_a_missing_or_broken_recipe_is_reported_before_pytorch_is_imported(tmp_path, argv, message):
    (tmp_path / "broken.yaml").write_text("data: [1")
    code = (
        "import sys\nfrom livecc_hf.cli.main import main\ncode = main(['train', *sys.argv[1:]])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert message in done.stderr


def test_a_recipe_without_a_name_is_one_line():
    with pytest.raises(ValueError, match="--config is given without a file"):
        parse(["--config"])


def test_options_with_an_equals_sign_are_read_too(recipe):
    parsed = parse([f"--config={recipe(bf16=True, use_cpu=False)}", "--inspect=2", "--seed=5"])
    assert (parsed.ours.inspect, parsed.training.seed, parsed.training.bf16) == (2, 5, False)  # as for inspect=2


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has it on Linux only")
@pytest.mark.parametrize(
    ("env", "expected"), [({}, "expandable_segments:True"), ({"PYTORCH_CUDA_ALLOC_CONF": "a:1"}, None)]
)
def test_gpu_memory_grows_in_segments_unless_the_recipe_says_how(recipe, monkeypatch, env, expected):
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    parse(["--config", recipe(env=env)])
    assert os.environ.get("PYTORCH_ALLOC_CONF") == expected


def test_env_goes_into_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVECC_TEST_VALUE", "0")
    path = tmp_path / "recipe.yaml"
    path.write_text("env: {LIVECC_TEST_VALUE: 7}\nseed: 3\n")
    written = read_written(["--config", str(path), "max_steps=2", "--resume"])
    assert os.environ["LIVECC_TEST_VALUE"] == "7"
    assert (written.values, written.names) == ({"seed": 3}, {"seed", "max_steps", "resume"})
