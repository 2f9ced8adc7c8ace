"""freeze: patterns lock what they name, and nothing else."""

import pytest

from tests.towers.tiny import tiny_model
from vlp.ground.types import RecipeError


def trained(model):
    return {name.removeprefix("core.") for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_part_locks_all_below_it():
    names = trained(tiny_model(freeze=("visual",)))
    assert names
    assert not any(name.startswith("visual.") for name in names)
    assert any(name.startswith("text.") for name in names)


def test_a_pattern_crosses_dots():
    names = trained(tiny_model(freeze=("visual.*.attn.*",)))
    assert not any(".attn." in name for name in names if name.startswith("visual."))
    assert any(".mlp." in name for name in names if name.startswith("visual."))


def test_a_group_name_ends_at_a_dot():
    with pytest.raises(RecipeError):
        tiny_model(freeze=("vis",))


def test_a_pattern_that_matches_nothing_names_the_nearest_group():
    with pytest.raises(RecipeError, match=r"did you mean 'visual\.transformer\.resblocks'"):
        tiny_model(freeze=("visual.transformer.blocks",))
