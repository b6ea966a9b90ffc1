"""`livecc train`: run the training script."""

from __future__ import annotations

from collections.abc import Sequence

from livecc_hf.assets.bundled_recipes import with_recipe_as_config
from livecc_hf.utils.extras import require_extra


def run(argv: Sequence[str]) -> int:
    """Train with the arguments of the training script; return 0.

    Raises:
        ValueError: if `--recipe` names an unknown recipe.
        ImportError: if the packages for training are not installed.
    """
    if "--help" in argv or "-h" in argv:
        from livecc_hf.training.options.help import short_help

        print(short_help())
        return 0
    argv = with_recipe_as_config("train", argv)
    require_extra("train", "livecc train")
    from livecc_hf.training.script import main

    main(list(argv))
    return 0
