"""A small recipe for each optimizer, and a number of its steps."""

from __future__ import annotations

import torch

from tests.small_steps import WORDS, batch_for, small_recipe
from vlp.ground import dist
from vlp.recipe.schema import Recipe
from vlp.run.assemble import Run
from vlp.run.state import full
from vlp.train import one_step

MORE = {"schedule_free": ("schedule.shape=constant",)}
PAIRS = 8


def recipe_for(name: str, *overrides: str) -> Recipe:
    """Return one of 8 pairs and an optimizer."""
    own = (f"optimizer.type={name}", "train.precision=float32", f"train.batch_size={PAIRS}", "train.threads=1")
    return small_recipe("vitb32_clip", *own, *MORE.get(name, ()), *overrides, image=VIT, text=TRANSFORMER)


VIT = {"type": "vit", "layers": 2, "width": 64, "head_width": 64, "patch_size": 16, "image_size": 32}
TRANSFORMER = {
    "type": "transformer",
    "layers": 2,
    "width": 64,
    "heads": 1,
    "context_length": 16,
    "vocab_size": WORDS + 1,
}


def steps_of(parts: Run, recipe: Recipe, numbers: range) -> dict[str, torch.Tensor]:
    """Take steps of this process's share, at the rates of the recipe's optimizer; return the weights."""
    share = PAIRS // dist.world_size()
    for step in numbers:
        batch = batch_for(recipe, PAIRS, step).narrow(share * dist.rank(), share)
        one_step(parts, batch, step)
    return {name: value.clone() for name, value in full(parts.towers.state_dict() | parts.averages()).items()}
