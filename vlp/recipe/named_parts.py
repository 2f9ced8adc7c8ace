"""The objective, the strategies and the optimizer that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlp.ground.registry import settings_of
from vlp.ground.types import RecipeError
from vlp.objectives.base import Objective, Term, terms
from vlp.objectives.head import Head
from vlp.objectives.projections.base import projections
from vlp.objectives.schedule import Schedule
from vlp.recipe.schema import Recipe, settings
from vlp.step.optimizers.base import OptimizerKind, optimizers
from vlp.strategies.base import Strategy, strategies
from vlp.towers.dual import DualEncoder
from vlp.towers.feature_widths import feature_widths
from vlp.towers.pixel_autoencoder import purifier_of
from vlp.towers.token_table import token_table

COMMON = ("weight", "widths", "head")  # of every term


def build_strategies(recipe: Recipe) -> dict[str, Strategy]:
    """Build the strategies of a recipe by label.

    Raises:
        RecipeError: The settings of one cannot be satisfied.
    """
    used: dict[str, Strategy] = {}
    for label, entry in recipe.strategies.items():
        try:
            used[label] = strategies.build(entry.type, settings(entry, "type"))
        except ValueError as error:
            raise RecipeError(f"strategies.{label}: {error}") from error
    return used


def load_strategies(used: Mapping[str, Strategy]) -> dict[str, str]:
    """Let strategies read what they work with; return by label what all processes must have read.

    Raises:
        RecipeError: A model or file is not there, or does not fit.
    """
    read = {}
    for label, strategy in used.items():
        try:
            read[label] = strategy.load()
        except ValueError as error:
            raise RecipeError(f"strategies.{label}: {error}") from error
    return read


def teacher_dim_of(used: Mapping[str, Strategy]) -> int | None:
    """Return the width of the teacher's embeddings; None where it has the model's, or there is none."""
    return next((strategy.teacher_dim for strategy in used.values() if strategy.teacher_dim is not None), None)


def widths_of(towers: DualEncoder, objective: Objective) -> tuple[tuple[int, int] | None, int | None, int | None]:
    """Let the towers hand out what heads and terms ask for, and return how wide that is.

    Returns:
        Widths of what the towers know before their projections, images first, the channels of maps of the image tower,
        and the number of tokens; None where nothing asks.

    Raises:
        RecipeError: A tower has no projection to look behind, or no map.
    """
    towers.hands_out_changes = "pixel_changes" in objective.needs and purifier_of(towers.core.visual) is not None
    features = feature_widths(towers) if "features" in objective.needs else None
    vocabulary = token_table(towers.core.text).num_embeddings if "tokens" in objective.needs else None
    if "maps" in objective.needs:
        return features, towers.hand_out_maps(), vocabulary
    return features, towers.hand_out_places() if "hidden_patches" in objective.needs else None, vocabulary


def build_term(recipe: Recipe, label: str) -> Term:
    """Build one of the terms of a recipe."""
    entry = recipe.objective[label]
    return terms.build(entry.type, settings(entry, "type", *COMMON))


def build_objective(recipe: Recipe) -> Objective:
    """Build the terms that a recipe sums.

    Raises:
        RecipeError: The settings of one cannot be satisfied.
    """
    parts: dict[str, tuple[Term, Schedule]] = {}
    widths: dict[str, int] = {}
    behind = {label: entry.head for label, entry in recipe.objective.items() if entry.head is not None}
    _check_heads(recipe, behind)
    for label, entry in recipe.objective.items():
        weight = entry.weight
        try:
            schedule = Schedule(start=weight) if isinstance(weight, float) else Schedule(**settings(weight))
            parts[label] = build_term(recipe, label), schedule
            for width in entry.widths:
                widths[f"{label}@{width}"] = width
                parts[f"{label}@{width}"] = build_term(recipe, label), schedule  # with parameters of its own
        except ValueError as error:
            raise RecipeError(f"objective.{label}: {error}") from error
    heads = {label: build_head(recipe, label) for label in recipe.heads}
    begins = {label: schedule.begin for label, (_, schedule) in parts.items()}
    if all(begins[label] and term.needs for label, (term, _) in parts.items()):
        raise RecipeError("objective: all terms wait for their weight.first_step: let one, such as clip, begin at once")
    return Objective(parts, widths, numerics=recipe.train.numerics, heads=heads, behind=behind, begins=begins)


def build_head(recipe: Recipe, label: str) -> Head:
    """Build one of the heads of a recipe.

    Raises:
        RecipeError: Its settings cannot be satisfied.
    """
    entry = recipe.heads[label]
    common = ("reads", "views", "init_scale")
    try:
        projection = projections.build(entry.type, settings(entry, "type", *common))
    except ValueError as error:
        raise RecipeError(f"heads.{label}: {error}") from error
    return Head(projection, *(getattr(entry, name) for name in common))


def _check_heads(recipe: Recipe, behind: Mapping[str, str]) -> None:
    """Refuse heads that are not there, that nobody uses, and widths behind one."""
    for label, name in behind.items():
        if name not in recipe.heads:
            known = ", ".join(recipe.heads) or "none"
            raise RecipeError(f"objective.{label}.head: no head is labelled '{name}' (known: {known})")
        if recipe.objective[label].widths:
            raise RecipeError(f"objective.{label}.widths: has no meaning behind a head: leave one of them out")
    for name in recipe.heads:
        if name not in behind.values():
            raise RecipeError(f"heads.{name}: no term stands behind it: set objective.LABEL.head={name}, or remove it")


def build_kind(recipe: Recipe) -> tuple[OptimizerKind, dict[str, Any]]:
    """Return the optimizer that a recipe names, and the settings that it shares with others.

    Raises:
        RecipeError: A number is out of its range.
    """
    section = recipe.optimizer
    own = tuple(settings_of(optimizers[section.type]).model_fields)
    kind = optimizers.build(section.type, {name: getattr(section, name) for name in own})
    return kind, settings(section, "type", *own)
