"""What a card says of a run, of one that went on, and of one in the folder of another."""

import json
import shutil

import pytest
from PIL import Image

from livecc_hf.training.options.recipe import parse
from livecc_hf.training.options.recipe_file import read_written
from livecc_hf.training.saving.finishing import recipe_facts
from livecc_hf.training.script import main
from livecc_hf.training.setup import build_trainer


def test_hours_are_those_of_the_videos_that_the_model_was_given(recipe):
    trainer = build_trainer(parse(["--config", recipe(max_steps=3, save_strategy="no")]))
    assert trainer.hours_shown == 0
    grids = []
    hook = trainer.model.register_forward_pre_hook(
        lambda module, args, keywords: grids.append(keywords["video_grid_thw"].clone()), with_kwargs=True
    )
    trainer.train()
    hook.remove()
    seconds = sum(int(grid[:, 0].sum()) for grid in grids)  # each temporal step is two frames, at 2 frames a second
    assert seconds > 3
    assert trainer.hours_shown * 3600 == pytest.approx(seconds)
    trainer._shown_from_step, trainer._shown_s = 1, 20  # as after a resume: ten seconds a step, in three steps
    assert trainer.hours_shown * 3600 == pytest.approx(30)


def test_the_black_frames_beside_text_are_no_video_that_was_shown(recipe, tmp_path):
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    asks = ["Who?", "Where?", [{"type": "image", "image": "a.png"}], [{"type": "image", "image": "gone.png"}]]
    chats = [[{"role": "user", "content": ask}, {"role": "assistant", "content": "A ball."}] for ask in asks]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    data = [{"source": "jsonl", "path": str(tmp_path / "chats.jsonl")}]
    trainer = build_trainer(parse(["--config", recipe(data=data, max_steps=2)]))
    trainer.train()
    assert trainer.hours_shown * 3600 == pytest.approx(2)  # the picture, in two steps


def test_what_trains_in_full_and_each_optimizers_rate_are_facts(recipe):
    muon = recipe_facts(parse(["--config", recipe(muon_learning_rate=0.05)]), "mrope")
    assert muon["learning rate"] == "0.05 (Muon), 0.003 (AdamW), linear"
    changes = {"optimizer": "trainer", "use_peft": True, "lora_modules_to_save": ["lm_head"], "train_parts": ["merger"]}
    adapter = recipe_facts(parse(["--config", recipe(**changes)]), "mrope")
    assert adapter["trained"] == "LoRA, rank 16, alpha 32, lm_head in full; merger"
    assert adapter["learning rate"] == "0.003, linear"


def test_a_recipe_is_called_by_the_projects_folders_and_by_nobody_elses(tmp_path):
    for folder, name in (("recipes/livecc-7b", "recipes/livecc-7b/sft.yaml"), ("secret project", "sft.yaml")):
        path = tmp_path / folder / "sft.yaml"
        path.parent.mkdir(parents=True)
        path.write_text("seed: 1\n")
        assert read_written(["--config", str(path)]).name == name
    assert read_written(["seed=1"]).name is None


@pytest.mark.parametrize("adapter", [{}, {"use_peft": True, "optimizer": "trainer", "train_parts": ["language_model"]}])
def test_the_card_of_a_run_that_went_on_says_how_far_it_came(recipe, tmp_path, adapter):
    saved = {"save_strategy": "steps", "save_steps": 1, **adapter}
    main(["--config", recipe(max_steps=1, **saved)])
    path = tmp_path / "out" / "README.md"
    first = path.read_text()
    assert "| recipe | recipe.yaml |" in first and "| steps | 1 (" in first and "| video shown | 0.00" in first
    path.write_text(first.replace("license: ", "license:  ") + "\nMy own words.\n")
    main(["--config", recipe(max_steps=2, **saved), "resume=true"])
    again = path.read_text()
    assert "| steps | 2 (" in again and "| steps | 1 (" not in again
    assert again.endswith("\nMy own words.\n") and str(tmp_path) not in again and again.count("## Training") == 1


def test_the_card_of_the_best_model_says_what_was_measured_on_it(recipe, tmp_path):
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    worse = {"learning_rate": 1.0, "optimizer": "trainer", "lr_scheduler_type": "constant", "logging_steps": 1}
    main(["--config", recipe(**steps, **worse, held_out=4, commentary_clips=0, load_best_model_at_end=True)])
    state = json.loads((tmp_path / "out/checkpoint-3/trainer_state.json").read_text())
    best = state["best_global_step"]
    assert best < 3
    card, last = (path.read_text() for path in (tmp_path / "out/README.md", tmp_path / "out/checkpoint-3/README.md"))
    assert f"| steps | {best} (" in card and "| steps | 3 (" in last
    assert f"| loss per token, held out | {state['best_metric']:.4g} (step {best}) |" in card
    assert card.count(f"(step {best}) |") == 3 and "(step 3)" not in card
    hours = [float(text.partition("| video shown | ")[2].split()[0]) for text in (card, last)]
    assert hours[0] == pytest.approx(hours[1] * best / 3, rel=0.01)


WHOLE = {"max_steps": 1, "optimizer": "trainer", "train_parts": ["language_model"]}
ADAPTER = {**WHOLE, "use_peft": True, "lora_r": 4}


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        (WHOLE, ADAPTER, r"holds a whole model \(model.safetensors\), and this run would save an adapter"),
        (ADAPTER, WHOLE, r"holds an adapter \(adapter_config.json\), and this run would save a whole model"),
    ],
)
def test_an_adapter_and_a_whole_model_never_share_a_folder(recipe, tmp_path, first, then, message):
    """Loading such a folder would put the adapter on the weights of the other run."""
    main(["--config", recipe(**first)])
    before = sorted(tmp_path.glob("out/*"))
    with pytest.raises(ValueError, match=message):
        main(["--config", recipe(**then)])
    assert sorted(tmp_path.glob("out/*")) == before
    main(["--config", recipe(**first)])  # the same kind replaces the model


@pytest.mark.parametrize("kind", [WHOLE, ADAPTER], ids=["whole", "adapter"])
def test_a_run_in_the_folder_of_an_earlier_one_gets_a_card_of_its_own(recipe, tmp_path, tiny_folder, caplog, kind):
    other = shutil.copytree(tiny_folder, tmp_path / "other-base")
    main(["--config", recipe(**kind)])
    card = tmp_path / "out/README.md"
    first = card.read_text() + "\nMy own words.\n"
    card.write_text(first)
    main(["--config", recipe(**kind, model_name_or_path=str(other), seed=7)])
    again = card.read_text()
    assert "`other-base`" in again and f"`{tiny_folder.name}`" not in again and "| seed | 7 |" in again
    assert (tmp_path / "out/README-before.md").read_text() == first
    assert "held the card of an earlier run, which is now README-before.md" in caplog.text
    own = "---\nlicense: mit\n---\nA card of the user, without facts.\n"
    card.write_text(own)
    main(["--config", recipe(**kind)])
    assert card.read_text() == own
