"""`livecc train`: run the training script."""

from __future__ import annotations

from collections.abc import Sequence

from livecc_hf.assets.bundled_recipes import with_recipe_as_config
from livecc_hf.utils.extras import require_extra


def run(argv: Sequence[str]) -> int:
    """Train with the arguments of the training script; return 0.

    Raises:
        ValueError: if `--recipe` names an unknown recipe, no recipe is given, or its file is not valid.
        FileNotFoundError: if the recipe's file does not exist.
        ImportError: if the packages for training are not installed.
    """
    if "--help" in argv or "-h" in argv:
        from livecc_hf.training.options.help import short_help

        print(short_help())
        return 0
    argv = with_recipe_as_config("train", argv)
    if "--help-all" not in argv:
        _check_recipe(argv)
    require_extra("train", "livecc train")
    from livecc_hf.training.script import main

    main(list(argv))
    return 0


def _check_recipe(argv: Sequence[str]) -> None:
    """Report a missing or broken recipe before the training script is imported, which takes seconds."""
    from livecc_hf.training.options.recipe_file import read_written

    written = read_written(argv)
    if written.name is None and "data" not in written.names:
        file = next((word for word in argv if word.endswith((".yaml", ".yml"))), None)
        if file is not None:
            raise ValueError(f"{file!r} belongs to no option: a recipe of your own is given as --config {file}")
        raise ValueError(
            "no recipe is given: expected --recipe NAME (without a name, it lists them) or --config FILE; see livecc "
            "train --help"
        )
