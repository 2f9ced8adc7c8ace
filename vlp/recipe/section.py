"""A part of a recipe."""

from __future__ import annotations

from vlp.ground.strict import Strict


class Section(Strict):
    """A part of the recipe: unknown keys are errors, values never change."""
