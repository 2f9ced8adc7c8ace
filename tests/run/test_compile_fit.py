"""Whole towers as one graph, and who cannot have them."""

from __future__ import annotations

import pytest

from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe
from vlp.recipe.named_parts import build_objective
from vlp.run.compile_fit import check_compiled

HEAD = ("heads.h={type: linear, reads: features}", "objective.clip.head=h")


@pytest.mark.parametrize(
    ("overrides", "sharded", "said"),
    [
        (("train.compile=towers",), True, "train.compile: towers: the launch shards"),
        (("train.compile=towers", *HEAD), False, "train.compile: towers: heads.h reads features"),
        (("train.compile=towers",), False, ""),
        (("train.compile=true", *HEAD), True, ""),
        (("train.compile=false", *HEAD), True, ""),
    ],
)
def test_whole_towers_need_nobody_between_their_blocks(overrides, sharded, said):
    recipe = load_recipe("vitb32_clip", overrides)
    objective = build_objective(recipe)
    if not said:
        check_compiled(recipe, objective, sharded=sharded)
        return
    with pytest.raises(RecipeError, match=said) as refused:
        check_compiled(recipe, objective, sharded=sharded)
    assert "set train.compile=true" in str(refused.value)
