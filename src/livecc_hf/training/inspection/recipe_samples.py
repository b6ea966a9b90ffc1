"""Prints and draws samples of a recipe, without loading the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from livecc_hf.data.unusable import UnusableSample

from ..model.loading import load_recipe_processor
from ..rows import open_samples
from .report import inspect_samples

if TYPE_CHECKING:
    from livecc_hf.data.samples.sample import Sample

    from ..options.recipe import Recipe

logger = logging.getLogger(__name__)


def inspect_recipe(recipe: Recipe) -> str:
    """Return samples of a recipe, drawn with its data seed, as readable text.

    Their frames are drawn to `inspect.png` in the run's output folder.

    Raises:
        ValueError, FileNotFoundError: see `open_samples`.
    """
    processor, _, notes = load_recipe_processor(recipe)
    for note in notes:
        logger.warning(note)
    data, _ = open_samples(recipe, processor)
    rng = np.random.default_rng(recipe.data_seed)
    chosen = np.sort(rng.permutation(len(data))[: recipe.ours.inspect])

    def load(index: int) -> Sample | UnusableSample:
        try:
            return data.sample(index)
        except UnusableSample as error:
            return error

    picture = Path(recipe.training.output_dir) / "inspect.png"
    return inspect_samples(((data.origin(index), load(index)) for index in chosen), processor, picture)
