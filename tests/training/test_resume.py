"""A run that was stopped and resumed is the run that was never stopped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from backbones import BACKBONES, write_published
from changed_source import tiny_source
from PIL import Image
from safetensors.torch import load_file

from livecc_hf.data.sources.tiny import TinyPart
from livecc_hf.training.options.recipe import parse
from livecc_hf.training.saving.checkpoints import RUN_STATE_FILE, DamagedCheckpointError
from livecc_hf.training.script import main
from livecc_hf.training.setup import build_trainer

LORA = {"optimizer": "trainer", "use_peft": True, "lora_r": 4, "lora_dropout": 0.1, "learning_rate": 0.01}
KINDS = {"full": {"optimizer": "trainer"}, "muon": {}, "lora": LORA, "packed": {"packing": True, "max_length": 400}}
STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}
SHUFFLED = {"train_sampling_strategy": "random", "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}


def losses(folder: Path) -> list[float]:
    """The loss of every step of a run."""
    state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def assert_same_run(whole: Path, resumed: Path) -> None:
    assert len(losses(whole)) == 6
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-6)
    one, two = weights(whole), weights(resumed)
    assert one.keys() == two.keys()
    assert one
    assert all(torch.equal(one[name], two[name]) for name in one)


@dataclass(frozen=True)
class WatchedItem:
    """Notes that it was decoded."""

    item: object
    row: int
    decoded: list[int]

    def encode(self, processor, options):
        self.decoded.append(self.row)
        return self.item.encode(processor, options)

    def count_tokens(self, processor, options):
        return self.item.count_tokens(processor, options)


class WatchedPart(TinyPart):
    decoded: list[int] = []  # noqa: RUF012 (shared on purpose)

    def __getitem__(self, row):
        return WatchedItem(super().__getitem__(row), row, self.decoded)


@pytest.fixture()
def watched():
    """The tiny source under another name; the rows it decoded."""

    WatchedPart.decoded.clear()
    with tiny_source("watched", WatchedPart):
        yield WatchedPart.decoded


def published(backbone: str | None, tmp_path: Path) -> dict[str, str]:
    """What a recipe changes to start from a published checkpoint of a backbone; `None`: from livecc-tiny."""
    if backbone is None:
        return {}
    folder = write_published(backbone, tmp_path / backbone)
    return {"model_name_or_path": str(folder), "position_scheme": "mrope"}


# Each backbone in one kind by default; the other takes as long and differs by little.
OF_BACKBONES = [(backbone, "lora" if backbone == "qwen2_5_vl" else "full") for backbone in BACKBONES]
OTHERS = [(backbone, {"full": "lora", "lora": "full"}[kind]) for backbone, kind in OF_BACKBONES]


@pytest.mark.parametrize(
    ("backbone", "kind"),
    [
        *((None, kind) for kind in KINDS),
        *OF_BACKBONES,
        *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS),
    ],
)
def test_resuming_is_exact_and_decodes_nothing_twice(recipe, tmp_path, watched, backbone, kind):
    # 18 samples, 4 a step: the checkpoint lies in the first epoch, the end in the second
    samples = 18 if kind != "packed" else 48
    entry = {"source": "watched", "task": "list", "length": [1, 1], "samples": samples}
    path = recipe(**STEPS | SHUFFLED | KINDS[kind] | published(backbone, tmp_path), data=[entry])
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    main(["--config", path, f"output_dir={whole}"])
    whole_order = list(watched)
    watched.clear()
    main(["--config", path, f"output_dir={resumed}", f"resume_from_checkpoint={whole / 'checkpoint-4'}"])
    states = [json.loads((whole / f"checkpoint-{step}" / RUN_STATE_FILE).read_text()) for step in (4, 6)]
    done, all_done = (state["skipped"]["n_samples"] for state in states)
    assert done < all_done <= len(whole_order)  # the loader is a batch ahead
    assert watched == whole_order[done:]
    assert json.loads((resumed / "checkpoint-6" / RUN_STATE_FILE).read_text()) == states[1]
    assert_same_run(whole, resumed)
    card = (whole / "README.md").read_text()
    assert f"Backbone: `{backbone or 'qwen2_vl'}`" in card


def test_loaders_that_start_between_a_checkpoint_and_the_next_step_change_nothing(recipe, tmp_path):
    """An epoch has 2 steps. It ends with a checkpoint, then an evaluation, which a resumed run does not repeat."""
    held_out = {"eval_strategy": "epoch", "held_out": 4, "commentary_clips": 0}
    data = [{"source": "tiny", "task": "list", "length": [1, 1], "samples": 8}]
    path = recipe(**STEPS | LORA | held_out, per_device_train_batch_size=2, data=data)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    main(["--config", path, f"output_dir={whole}"])
    main(["--config", path, f"output_dir={resumed}", f"resume_from_checkpoint={whole / 'checkpoint-4'}"])
    assert_same_run(whole, resumed)


def killed(stage: str, nth: int, folder: Path, arguments: list[str]) -> None:
    """Runs `livecc train` until it is killed while writing a checkpoint."""
    script = Path(__file__).with_name("killed_run.py")
    command = [sys.executable, str(script), stage, str(nth), *arguments, f"output_dir={folder}"]
    result = subprocess.run(command, env={**os.environ, "RUN_FOLDER": str(folder)}, capture_output=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()[-2000:]


def check_survives(recipe, tmp_path, stage: str, nth: int, changes: dict) -> None:
    path = recipe(**STEPS | SHUFFLED | changes, save_total_limit=1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    main(["--config", path, f"output_dir={whole}"])
    killed(stage, nth, cut, ["--config", path])
    main(["--config", path, f"output_dir={cut}", "--resume"])
    assert_same_run(whole, cut)
    assert [folder.name for folder in cut.glob("checkpoint-*")] == ["checkpoint-6"]


def test_a_run_killed_while_saving_resumes(recipe, tmp_path):
    check_survives(recipe, tmp_path, "mark", 2, {})


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("stage", ["weights", "optimizer", "rng", "trainer state", "mark", "rotation"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_run_killed_at_any_stage_of_saving_resumes(recipe, tmp_path, kind, stage, nth):
    check_survives(recipe, tmp_path, stage, nth, KINDS[kind])


@pytest.mark.parametrize("changes", [{}, {"max_steps": 5}, {"eval_strategy": "epoch", "held_out": 4}])
def test_resuming_a_run_at_its_end_changes_nothing(recipe, tmp_path, changes):
    """48 samples make 12 steps an epoch: the end lies within it."""
    path = recipe(**STEPS | changes)
    main(["--config", path])
    out, steps = tmp_path / "out", changes.get("max_steps", 6)
    before = weights(out)
    (out / "model.safetensors").unlink()  # as if killed after its last checkpoint
    for _ in range(2):
        main(["--config", path, "--resume"])
        after = weights(out)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert max(int(folder.name.rpartition("-")[2]) for folder in out.glob("checkpoint-*")) == steps


def test_a_finished_run_goes_on_where_it_gets_more_steps(recipe, tmp_path):
    path = recipe(**STEPS | {"lr_scheduler_type": "constant"})
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    main(["--config", path, f"output_dir={whole}"])
    main(["--config", path, f"output_dir={longer}", "max_steps=3"])
    main(["--config", path, f"output_dir={longer}", "max_steps=6", "--resume"])
    assert_same_run(whole, longer)


def test_a_run_is_not_overwritten(recipe):
    path = recipe(**STEPS)
    main(["--config", path])
    with pytest.raises(ValueError, match="holds a run already.*checkpoint-6.*--resume"):
        main(["--config", path])


def test_resuming_with_a_changed_option_names_it(recipe, tmp_path, caplog):
    path = recipe(**STEPS, held_out=2, optimizer="trainer")
    main(["--config", path])
    other = json.dumps({"source": "tiny", "task": "list", "length": [1, 1], "samples": 47})
    for given, named in {
        "data_seed=5": "data_seed null -> 5",
        "held_out=3": "held_out 2 -> 3",
        "max_frames=60": "max_frames 480 -> 60",
        "use_context=false": "use_context true -> false",
        "keep_trailing_silence=false": "keep_trailing_silence true -> false",
        "position_scheme=sequential": 'position_scheme null -> "sequential"',
        f"data={other}": "data[0].samples 48 -> 47",
        "train_parts=merger": 'train_parts ["vision", "merger", "language_model"] -> ["merger"]',
        "optim=adamw_torch": 'optim "adamw_torch_fused" -> "adamw_torch"',
        "learning_rate=0.1": "learning_rate 0.003 -> 0.1",
    }.items():
        with pytest.raises(ValueError, match=f"trained with other options: (.*; )?{re.escape(named)}.*Restore"):
            main(["--config", path, "--resume", given])
    with pytest.raises(ValueError, match="4 rows a step, this run has 2"):
        main(["--config", path, "--resume", "per_device_train_batch_size=2"])
    main(["--config", path, "--resume", "max_steps=7"])
    assert "changed since checkpoint-6, applied from now on: max_steps 6 -> 7" in caplog.text


def test_resuming_with_changed_lines_is_refused(recipe, tmp_path):
    lines = tmp_path / "lines.jsonl"

    def write(answer: str) -> None:
        talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": answer}]
        lines.write_text((json.dumps(talk) + "\n") * 24)

    write("Red ball.")
    path = recipe(**STEPS, data=[{"source": "jsonl", "path": str(lines)}])
    main(["--config", path])
    write("Rad ball.")
    with pytest.raises(ValueError, match=r"other options: the content of data\[0\] \(jsonl .*lines.jsonl\) "):
        main(["--config", path, "--resume"])


def test_a_folder_that_is_no_checkpoint_is_refused(recipe, tmp_path):
    with pytest.raises(ValueError, match="not a whole checkpoint.*--resume"):
        main(["--config", recipe(), f"resume_from_checkpoint={tmp_path}"])


def garbage(file: Path) -> None:
    file.write_bytes(b"x" * file.stat().st_size)


def halve(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


DAMAGES = [
    ("optimizer.pt", halve, r"it has \d+ bytes, but \d+ were written"),
    ("scheduler.pt", Path.unlink, "it is missing"),
    ("model.safetensors", halve, r"it has \d+ bytes"),
    ("optimizer.pt", garbage, "not a zip file"),
    ("rng_state.pth", garbage, "not a zip file"),
    ("model.safetensors", garbage, "[Hh]eader"),
    ("trainer_state.json", garbage, "Expecting value"),
    (RUN_STATE_FILE, garbage, "Expecting value"),
    (RUN_STATE_FILE, lambda file: file.write_text("[1]"), "must be a mapping"),
]


def test_a_damaged_checkpoint_is_named_with_what_to_do(recipe, tmp_path):
    path, whole = recipe(**STEPS), tmp_path / "out"
    main(["--config", path])
    for name, damage, what in DAMAGES:
        cut = tmp_path / "cut"
        shutil.copytree(whole, cut)
        shutil.rmtree(cut / "checkpoint-6")
        damage(cut / "checkpoint-4" / name)
        expected = rf"{cut}/checkpoint-4/{name} is damaged \(.*{what}.*\): delete {cut}/checkpoint-4, then --resume"
        for given in ("--resume", f"resume_from_checkpoint={cut / 'checkpoint-4'}"):
            with pytest.raises(DamagedCheckpointError, match=expected):
                main(["--config", path, f"output_dir={cut}", given])
        shutil.rmtree(cut / "checkpoint-4")
        if damage is halve:
            main(["--config", path, f"output_dir={cut}", "--resume"])
            assert_same_run(whole, cut)
        shutil.rmtree(cut)


LIMITED = """
import resource, sys
from livecc_hf.cli.main import main

import livecc_hf.training.script  # compiled before writing is limited
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(["train", *sys.argv[2:]]))
"""


def test_a_full_disk_is_one_clear_error_and_loses_no_checkpoint(recipe, tmp_path):
    """A limit on the size of files stands for the end of the disk: the weights fit, the optimizer's state does not."""
    path, out, whole = recipe(**STEPS), tmp_path / "cut", tmp_path / "whole"
    main(["--config", path, f"output_dir={whole}"])
    limit = (whole / "model.safetensors").stat().st_size + 10_000
    shutil.copytree(whole / "checkpoint-2", out / "checkpoint-2")
    command = [sys.executable, "-c", LIMITED, str(limit), "--config", path, f"output_dir={out}", "--resume"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    told = rf"livecc: error: the disk of {out} is full \(.*\): checkpoint-2 is kept: free some space and continue with"
    assert re.fullmatch(f"{told} --resume", run.stderr.splitlines()[-1])
    main(["--config", path, f"output_dir={out}", "--resume"])
    assert_same_run(whole, out)


def test_resuming_with_other_packed_rows_is_refused(recipe, tmp_path):
    """A picture that was missing has come back: as many rows as before, but with other samples in them."""
    picture = {"type": "image", "image": "a.png", "resized_height": 56, "resized_width": 56}
    asks = ["Who?", "Where?", "When?", "How?", [picture, {"type": "text", "text": "What is it, and who can see it?"}]]
    chats = [[{"role": "user", "content": ask}, {"role": "assistant", "content": "A ball."}] for ask in asks]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    data = [{"source": "jsonl", "path": str(tmp_path / "chats.jsonl")}]
    path = recipe(data=data, packing=True, max_length=100, max_steps=1, save_strategy="steps", save_steps=1)
    main(["--config", path])
    before = build_trainer(parse(["--config", path]))
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    after = build_trainer(parse(["--config", path]))
    assert len(before.data_collator.packs) == len(after.data_collator.packs) == 2
    assert before.identity.fingerprint == after.identity.fingerprint
    with pytest.raises(ValueError, match="checkpoint-1 was trained on samples packed into other rows"):
        main(["--config", path, "--resume", "max_steps=2"])
    (tmp_path / "a.png").unlink()
    state = tmp_path / "out/checkpoint-1" / RUN_STATE_FILE
    state.write_text(json.dumps({k: v for k, v in json.loads(state.read_text()).items() if k != "rows"}))
    main(["--config", path, "--resume", "max_steps=2"])  # a checkpoint of an earlier version


def test_resuming_with_other_epochs_is_refused(recipe, tmp_path):
    """46 rows are 12 steps of 4, or 11 if the last two rows are left out."""
    data = [{"source": "tiny", "task": "list", "length": [1, 1], "samples": 46}]
    path = recipe(**STEPS | {"max_steps": 2}, data=data)
    main(["--config", path])
    with pytest.raises(ValueError, match="dataloader_drop_last, rows of a batch not given -> 4"):
        main(["--config", path, "--resume", "dataloader_drop_last=true", "max_steps=4"])


def test_resuming_with_another_kind_of_adapter_is_refused_and_with_another_base_said(recipe, caplog):
    pytest.importorskip("bitsandbytes")
    path = recipe(**STEPS | LORA | {"max_steps": 2, "train_parts": ["language_model"]})
    main(["--config", path])
    with pytest.raises(ValueError, match="use_dora not given -> true"):
        main(["--config", path, "--resume", "use_dora=true", "max_steps=4"])
    main(["--config", path, "--resume", "load_in_4bit=true", "max_steps=3"])
    assert (
        "changed since checkpoint-2, applied from now on: max_steps 2 -> 3; load_in_4bit not given -> true"
        in caplog.text
    )
