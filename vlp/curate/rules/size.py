"""Images that are too small or too long."""

from __future__ import annotations

from vlp.curate.facts.facts import HEADER
from vlp.curate.facts.gather import FactTable
from vlp.curate.rules.base import Flags, rules
from vlp.ground.ranges import Positive, Whole
from vlp.ground.types import RecipeError


@rules.register("size")
class Size:
    """Keep images whose short side is over, and whose long side is not over.

    Jia et al. 2021, section 3 (arXiv:2102.05918) keeps those with a short side over 200 pixels and an aspect under 3.

    Args:
        short_side_over: Pixels.
        aspect_under: Long side divided by short side.
    """

    facts = (HEADER,)

    def __init__(self, *, short_side_over: Whole = 200, aspect_under: Positive = 3.0):
        if aspect_under <= 1:
            raise RecipeError(f"aspect_under: {aspect_under:g} must be above 1, which no image is below")
        self.short_side_over = short_side_over
        self.aspect_under = aspect_under

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Compare both sides."""
        sides = table.values(HEADER)["size"]
        short, long = sides.min(1), sides.max(1)
        return ~((short > self.short_side_over) & (long < self.aspect_under * short))

    def reason(self, table: FactTable, number: int) -> str:
        """Name the size."""
        width, height = table.value(HEADER, number)["size"]
        return f"{width} x {height}"
