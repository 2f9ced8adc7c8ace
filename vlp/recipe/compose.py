"""Recipes: one YAML file, one parent, dotted overrides, and an answer to every mistake."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlp.evaluators.variants import name_in_records
from vlp.ground import paths
from vlp.ground.explain import explain
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError
from vlp.ground.yaml import write_yaml
from vlp.recipe.layers import LENGTHS, Layer, leaves, merge_layers, override_layer, read_layers
from vlp.recipe.schema import Recipe
from vlp.recipe.scoring_and_saving import EvaluationSection
from vlp.recipe.start import start_layer
from vlp.towers.tuning.base import DEFAULT

LABELLED = ("objective", "strategies", "heads")
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
    """Return what the weights say, a recipe's ancestors, the recipe, and the overrides, oldest first."""
    layers = [*read_layers(paths.find_card("recipes", name)), *([override_layer(overrides)] if overrides else [])]
    model = merge_layers(layers).get("model")
    return [*(start_layer(model) if isinstance(model, Mapping) else ()), *layers]


def check_recipe(layers: Sequence[Layer]) -> Recipe:
    """Merge layers and turn them into a Recipe, or explain the first mistakes."""
    merged = merge_layers(layers)
    try:
        recipe = Recipe.model_validate(with_types(merged))
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe, [(layer.name, layer.settings) for layer in layers])) from error
    _check_length(recipe, layers)
    _check_weights(recipe)
    _check_rules(recipe.evaluation)
    return recipe


def with_types(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Drop removed entries, and give labelled entries the `type`, `card` or `task` that they leave to their label; what
    is named alone gets a label, or becomes a section."""
    full = {key: value for key, value in settings.items() if value is not None}
    for section in LABELLED:
        full[section] = _label(full.get(section, {}), "type")
    full |= _within(full, "data", "train", lambda train: _label(_sources(train), "card"))
    full |= _within(full, "evaluation", "stop_when", lambda rules: _label(rules or {}, "task"))
    return full | _within(full, "model", "tune", _as_type)


def _as_type(tune: Any) -> Any:
    """Return a way of tuning as a section: it may be named alone, or removed, which leaves the default."""
    return {"type": tune} if isinstance(tune, str) else {"type": DEFAULT} if tune is None else tune


def _within(settings: Mapping[str, Any], section: str, key: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a section in which one entry has changed, or nothing where it is not there."""
    entries = settings.get(section)
    if not isinstance(entries, Mapping) or key not in entries:
        return {}
    return {section: {**entries, key: change(entries[key])}}


def _sources(train: Any) -> Any:
    """Label cards that are given by their names or paths alone, one or a list of them.

    Raises:
        RecipeError: Two would have one label, and the first would be left out.
    """
    cards = [train] if isinstance(train, str) else train
    if not isinstance(cards, list) or not all(isinstance(card, str) for card in cards):
        return train
    labels = [Path(card).stem for card in cards]
    for label, card in zip(labels, cards, strict=True):
        if labels.count(label) > 1:
            raise RecipeError(
                f"data.train: {labels.count(label)} cards are labelled '{label}', '{card}' among them: give each a "
                f"label (data.train={{one: {{card: {card}}}, other: ...}}), or one card a repeat"
            )
    return {label: {"card": card} for label, card in zip(labels, cards, strict=True)}


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


def _check_rules(evaluation: EvaluationSection) -> None:
    """Refuse what is said of tasks that are not evaluated, and rules that say nothing."""
    tasks = [name_in_records(task) for task in evaluation.tasks]
    for task in evaluation.kept if tasks else ():  # a run that evaluates nothing may go by a recipe that would
        if name_in_records(task) not in tasks:
            hint = nearest(task, tasks)
            raise RecipeError(
                f"evaluation.kept: '{task}' is none of evaluation.tasks{hint}; add it, or set evaluation.kept"
            )
    for label, rule in evaluation.stop_when.items():
        key = f"evaluation.stop_when.{label}"
        if name_in_records(rule.task) not in tasks:
            hint = nearest(rule.task, tasks)
            raise RecipeError(f"{key}: '{rule.task}' is none of evaluation.tasks{hint}; add it, or set {key}.task")
        if (rule.falls_by is None) == (rule.patience is None):
            raise RecipeError(f"{key}: give one of falls_by and patience; a second rule can have a label of its own")
        if rule.patience is not None and rule.against != "start":
            raise RecipeError(f"{key}.against: has no effect beside patience: remove it")
        if rule.needs_start and not evaluation.before:
            raise RecipeError(f"{key}: needs the score of the start: set evaluation.before=true, or against: best")
        if evaluation.every is None:
            raise RecipeError(f"{key}: has no effect on a run that is evaluated at its end alone: set evaluation.every")
