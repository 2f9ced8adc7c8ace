"""Short trainings, and what they lost at each step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.recipe.schema import Recipe
from vlp.train import train

STEADY = "model.image.patch_dropout=0.0"


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    """Return a recipe of six steps over shards that are written to `folder`."""
    write_shards(folder / "shards", num_shards=3, samples_per_shard=7)
    return tiny_recipe(folder, f"{folder}/shards/*.tar", *overrides)


def losses_of(run: Path) -> list[dict[str, float]]:
    """Return the loss and the terms of each step."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key.startswith("loss")} for line in lines]


def assert_resumes(recipe: Recipe) -> None:
    """Train, drop the last checkpoint, train on from the one before: nothing differs."""
    run = train(recipe)
    whole = losses_of(run)
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    train(recipe, resume=True)
    assert losses_of(run) == whole
