"""`livecc train`: hands its arguments to the training script."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Train with the training script's own arguments.

    Raises:
        ImportError: if the packages for training are not installed.
    """
    try:
        from livecc_hf.training.script import main
    except ImportError as error:
        raise ImportError(f"training needs more packages ({error}): pip install 'livecc-hf[train]'") from error
    main(list(argv))
    return 0
