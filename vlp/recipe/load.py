"""Recipes: one YAML file, one parent, dotted overrides, and an answer to every mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from vlp.data.shards.cards import Card
from vlp.evaluators.base import Task
from vlp.ground import paths
from vlp.ground.explain import explain
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml, write_yaml
from vlp.recipe.layers import LENGTHS, Layer, leaves, merge_layers, override_layer, read_layers
from vlp.recipe.schema import Recipe, settings
from vlp.towers.base import Fragment, Tower, image_towers, text_towers
from vlp.towers.dual import DualEncoder

LABELLED = ("objective", "strategies")
LABEL = re.compile(r"[\w-]+", re.ASCII)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and everything it extends, apply overrides, and check it.

    Args:
        name: Path of a YAML file, or the name of a recipe under `recipes/`.
        overrides: `key.sub=value` texts; values are YAML, `null` removes a key.

    Raises:
        RecipeError: Any mistake; names the key, where it stands, and the nearest valid name.
    """
    return check_recipe(recipe_layers(name, overrides))


def recipe_layers(name: str, overrides: Sequence[str] = ()) -> list[Layer]:
    """Return a recipe's ancestors, the recipe, and the overrides, oldest first."""
    return [*read_layers(paths.find_card("recipes", name)), *([override_layer(overrides)] if overrides else [])]


def check_recipe(layers: Sequence[Layer]) -> Recipe:
    """Merge layers and turn them into a Recipe, or explain the first mistakes."""
    merged = merge_layers(layers)
    try:
        recipe = Recipe.model_validate(with_types(merged))
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe, [(layer.name, layer.settings) for layer in layers])) from error
    _check_length(recipe, layers)
    _check_weights(recipe)
    return recipe


def with_types(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Drop removed entries and default each labelled entry's `type` (or a source's `card`) to its label."""
    full = {key: value for key, value in settings.items() if value is not None}
    for section in LABELLED:
        full[section] = _label(full.get(section, {}), "type")
    if isinstance(full.get("data"), Mapping):
        full["data"] = {**full["data"], "train": _label(full["data"].get("train", {}), "card")}
    return full


def lock_text(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML; loading it gives an equal recipe."""
    return write_yaml(recipe.model_dump(mode="json"))


def differences(old: Recipe, new: Recipe) -> list[str]:
    """List the settings that differ, as `key: old -> new` lines."""
    before, after = leaves(old.model_dump(mode="json")), leaves(new.model_dump(mode="json"))
    keys = sorted(before.keys() | after.keys())
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in keys
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def load_card(name: str) -> Card:
    """Return a data card by its name under `data/` or by the path of its YAML file."""
    path = paths.find_card("data", name)
    return Card.from_mapping(read_yaml(path), path)


def load_task(name: str) -> Task:
    """Return an evaluation task by its name under `eval/` or by the path of its YAML file."""
    path = paths.find_card("eval", name)
    return Task.from_mapping(path.stem, read_yaml(path), str(path))


def build_model(section: BaseModel) -> DualEncoder:
    """Build the towers that a recipe's `model` section describes."""
    return DualEncoder(*_towers(section), **settings(section, "image", "text"))


def fragments(section: BaseModel) -> tuple[Fragment, Fragment]:
    """Return what the towers of a recipe's `model` section bring to open_clip's configuration, image first."""
    image, text = _towers(section)
    return image.fragment(), text.fragment()


def _towers(section: Any) -> tuple[Tower, Tower]:
    image, text = section.image, section.text
    return (
        image_towers.build(image.type, settings(image, "type")),
        text_towers.build(text.type, settings(text, "type")),
    )


def settled(recipe: Recipe, towers: DualEncoder) -> Recipe:
    """Return a recipe in which stands what its weights decided, so that the model can be built again without them."""
    if not towers.loaded:
        return recipe
    model: Any = recipe.model
    decided = {key: towers.preprocess_cfg[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    for side in ("image", "text"):
        tower = getattr(model, side)
        if "quick_gelu" in type(tower).model_fields:
            decided[side] = tower.model_copy(update={"quick_gelu": towers.model_cfg["quick_gelu"]})
    return recipe.model_copy(update={"model": model.model_copy(update=decided)})


def without_weights(section: BaseModel) -> BaseModel:
    """Return a `model` section that downloads and loads nothing, for a model whose weights come from elsewhere."""
    names = {"weights": None, "pretrained": False}
    towers = {
        side: getattr(section, side).model_copy(
            update={name: value for name, value in names.items() if name in type(getattr(section, side)).model_fields}
        )
        for side in ("image", "text")
    }
    return section.model_copy(update={"weights": None, **towers})


def _label(entries: Any, key: str) -> Any:
    if not isinstance(entries, Mapping):
        return entries
    named = {label: {} if entry == {} else entry for label, entry in entries.items() if entry is not None}
    return {label: {key: label, **entry} if isinstance(entry, Mapping) else entry for label, entry in named.items()}


def _check_length(recipe: Recipe, layers: Sequence[Layer]) -> None:
    given = [key for key in LENGTHS if getattr(recipe.train, key) is not None]
    if len(given) != 1:
        said = "none is given" if not given else f"given: {', '.join(given)}; remove one with train.{given[0]}=null"
        raise RecipeError(f"{layers[-1].name}: train: give exactly one of steps, samples, epochs ({said})")


def _check_weights(recipe: Recipe) -> None:
    for label in recipe.strategies:
        if label == "model" or not LABEL.fullmatch(label):
            raise RecipeError(
                f"strategies.{label}: is no label for weights in a checkpoint: choose letters, digits, '_' "
                f"and '-', and not 'model' (write strategies.{label}=null strategies.OTHER={{type: ...}})"
            )
    if recipe.evaluation.weights not in ("model", *recipe.strategies):
        known = ", ".join(("model", *recipe.strategies))
        raise RecipeError(f"evaluation.weights: no strategy is labelled '{recipe.evaluation.weights}' (known: {known})")
