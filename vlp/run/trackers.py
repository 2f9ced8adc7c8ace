"""Trackers beside `metrics.jsonl`: the whole recipe, a name and an id that stay, and no way to end a run."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

from accelerate import Accelerator

from vlp.ground.errors import first_line
from vlp.ground.types import RecipeError, VlpWarning
from vlp.recipe.layers import leaves
from vlp.recipe.schema import Recipe
from vlp.run.log import Track

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}


def check_trackers(recipe: Recipe) -> None:
    """Refuse a tracker whose package is not there: accelerate would go on without it.

    Raises:
        RecipeError: Names the package.
    """
    for name in recipe.log.trackers:
        if not any(importlib.util.find_spec(package) for package in PACKAGES[name]):
            raise RecipeError(
                f"log.trackers: {name} is not installed: pip install {PACKAGES[name][0]}, or take it out of the list"
            )


def start_trackers(accelerator: Accelerator, recipe: Recipe, run_id: str) -> Track | None:
    """Open the recipe's trackers, and return what hands metrics to them; None where there are none.

    Args:
        run_id: The same one after a resume, which so goes on in the same run of the tracker.
    """
    if not recipe.log.trackers:
        return None
    names = {
        "wandb": {"name": recipe.name, "id": run_id, "resume": "allow"},
        "trackio": {"name": f"{recipe.name}-{run_id}", "resume": "allow"},
    }
    try:
        accelerator.init_trackers(recipe.log.project, config=plain_settings(recipe), init_kwargs=names)
    except Exception as error:  # no account, no network: a broken tracker must not cost a run
        said = first_line(error, kind=True)
        warnings.warn(f"log.trackers: the run goes on untracked: {said}", VlpWarning, stacklevel=2)
        return None

    def track(metrics: dict[str, float], step: int) -> None:
        accelerator.log(metrics, step=step)

    return track


def plain_settings(recipe: Recipe) -> dict[str, Any]:
    """Return every setting of a recipe by its dotted key, as a number or a text: what trackers can compare."""
    found = leaves(recipe.model_dump(mode="json"))
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in found.items()}
