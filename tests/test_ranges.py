"""No number of a part of a recipe is taken that means nothing: -1 stands for all of them."""

from __future__ import annotations

import typing

import pytest
from pydantic_core import PydanticUndefined

from vlp.curate.rules.base import rules
from vlp.data.pixels.policies import policies
from vlp.ground.registry import settings_of
from vlp.ground.types import RecipeError
from vlp.objectives.base import terms
from vlp.objectives.projections.base import projections
from vlp.recipe.compose import load_recipe
from vlp.robust.attacks.base import attacks
from vlp.step.optimizers.base import optimizers
from vlp.strategies.base import strategies
from vlp.towers.base import caption_decoders, image_towers, text_towers
from vlp.towers.tuning.base import tunings

PARTS = {
    "objective": terms,
    "strategies": strategies,
    "data.policy": policies,
    "optimizer": optimizers,
    "heads": projections,
    "model.tune": tunings,
    "model.image": image_towers,
    "model.text": text_towers,
    "model.decoder": caption_decoders,
    "rules": rules,
    "attacks": attacks,
}
MEANS_SOMETHING = {
    ("data.policy", "augmix", "depth"),  # as many as are drawn
    ("strategies", "sequence_lengths", "seed"),
    ("rules", "caption_cap", "seed"),
    ("rules", "score", "least"),  # a cosine
    ("rules", "evaluation_images", "distance"),  # that of duplicate_images
    *(("attacks", name, "seed") for name in ("cpgc_image", "cpgc_word", "universal")),
    # refused where both towers are built (test_dual)
    ("model.image", "open_clip", "patch_dropout"),
    ("model.image", "vit", "patch_dropout"),
}


def numbers():
    for noun, registry in PARTS.items():
        for name in registry:
            for key, field in settings_of(registry[name]).model_fields.items():
                kinds = (field.annotation, *typing.get_args(field.annotation))
                if {int, float} & set(kinds) and tuple not in map(typing.get_origin, kinds):
                    yield noun, name, key


def required(schema, key):
    """Return settings that a part cannot do without, any that its kind allows."""
    kinds = {int: 4, float: 0.5, str: "x"}
    return {
        name: next(
            (value for kind, value in kinds.items() if kind in (field.annotation, *typing.get_args(field.annotation))),
            (),
        )
        for name, field in schema.model_fields.items()
        if field.default is PydanticUndefined and name != key
    }


@pytest.mark.parametrize(("noun", "name", "key"), sorted(set(numbers()) - MEANS_SOMETHING))
def test_a_number_below_all_ranges_is_refused(noun, name, key):
    registry = PARTS[noun]
    more = required(settings_of(registry[name]), key)
    with pytest.raises(ValueError, match=rf"-1\b|\b{key}\b|\bweights\b"):
        settings_of(registry[name]).model_validate({key: -1, **more})
        registry.build(name, {key: -1, **more})


@pytest.mark.parametrize("size", [0, -1, "[0, 224]", "[224, -1]"])
@pytest.mark.parametrize("tower", ["vit", "open_clip", "timm"])
def test_an_image_without_pixels_is_refused(tower, size):
    name = {"open_clip": ", name: ViT-B-32", "timm": ", name: vit_base_patch16_224"}.get(tower, "")
    with pytest.raises(RecipeError, match=r"image_size"):
        load_recipe("vitb32_clip", [f"model.image={{type: {tower}{name}, image_size: {size}}}"])
