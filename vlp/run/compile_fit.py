"""Which recipes can compile each tower as one graph."""

from __future__ import annotations

from vlp.ground.types import RecipeError
from vlp.objectives.base import Objective
from vlp.recipe.schema import Recipe

BLOCKS = "set train.compile=true, which compiles block by block"


def check_compiled(recipe: Recipe, objective: Objective, *, sharded: bool) -> None:
    """Refuse whole towers where somebody needs what lies between their blocks.

    Raises:
        RecipeError: Says who does, and names the way out.
    """
    if recipe.train.compile != "towers":
        return
    if sharded:
        raise RecipeError(f"train.compile: towers: the launch shards parameters block by block: {BLOCKS}")
    if "features" in objective.needs:
        label = next((label for label, head in recipe.heads.items() if head.reads == "features"), "")
        raise RecipeError(
            f"train.compile: towers: heads.{label} reads features that one graph would hide: {BLOCKS}, or its reads to "
            "embeddings"
        )
