"""`livecc train --help`: two screens that name what there is."""

from dataclasses import fields

import pytest

from livecc_hf.cli.main import main
from livecc_hf.training.options.arguments import LiveCCArguments
from livecc_hf.training.options.help import COMMON, short_help


def test_help_fits_two_screens_and_says_where_all_options_are(capsys):
    assert main(["train", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 80
    assert "livecc train --help-all" in lines[-2]


def test_help_names_existing_options():
    from trl import ModelConfig, SFTConfig

    known = {item.name for cls in (SFTConfig, ModelConfig) for item in fields(cls)}
    named = {name for options in COMMON.values() for names in options for name in names.split(", ")}
    assert named <= known
    assert all(f"  {item.name} " in short_help() for item in fields(LiveCCArguments))


def test_all_options_are_listed(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help-all"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    for name in ("held_out", "neftune_noise_alpha", "packing_strategy", "lora_dropout"):
        assert f"--{name}" in told
