"""The objective, the strategies and the optimizer that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlp.ground.registry import settings_of
from vlp.ground.types import RecipeError
from vlp.objectives.base import Objective, Term, terms
from vlp.objectives.schedule import Schedule
from vlp.recipe.schema import Recipe, settings
from vlp.step.optimizers.base import OptimizerKind, optimizers
from vlp.strategies.base import Strategy, strategies


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


def build_objective(recipe: Recipe) -> Objective:
    """Build the terms that a recipe sums.

    Raises:
        RecipeError: The settings of one cannot be satisfied.
    """
    parts: dict[str, tuple[Term, Schedule]] = {}
    widths: dict[str, int] = {}
    for label, entry in recipe.objective.items():
        weight = entry.weight
        try:
            schedule = Schedule(start=weight) if isinstance(weight, float) else Schedule(**settings(weight))
            own = settings(entry, "type", "weight", "widths")
            parts[label] = terms.build(entry.type, own), schedule
            for width in entry.widths:
                widths[f"{label}@{width}"] = width
                parts[f"{label}@{width}"] = terms.build(entry.type, own), schedule  # with parameters of its own
        except ValueError as error:
            raise RecipeError(f"objective.{label}: {error}") from error
    return Objective(parts, widths, numerics=recipe.train.numerics)


def build_kind(recipe: Recipe) -> tuple[OptimizerKind, dict[str, Any]]:
    """Return the optimizer that a recipe names, and the settings that it shares with others.

    Raises:
        RecipeError: A number is out of its range.
    """
    section = recipe.optimizer
    own = tuple(settings_of(optimizers[section.type]).model_fields)
    kind = optimizers.build(section.type, {name: getattr(section, name) for name in own})
    return kind, settings(section, "type", *own)
