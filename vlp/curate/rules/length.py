"""Captions that are too short or too long."""

from __future__ import annotations

from vlp.curate.facts.facts import WORDS
from vlp.curate.facts.gather import FactTable
from vlp.curate.rules.base import Flags, rules
from vlp.ground.ranges import Count, Whole
from vlp.ground.types import RecipeError


@rules.register("length")
class Length:
    """Keep captions of a number of words; Jia et al. 2021, section 3 (arXiv:2102.05918).

    Words are what stands between spaces and punctuation: languages without spaces need another measure.

    Args:
        fewest: Words of the shortest caption that stays.
        most: Words of the longest.
    """

    facts = (WORDS,)

    def __init__(self, *, fewest: Whole = 3, most: Count = 20):
        if fewest > most:
            raise RecipeError(f"fewest: {fewest} is above most, {most}, so that no caption would stay")
        self.fewest = fewest
        self.most = most

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Compare the number of words."""
        words = table.values(WORDS)
        return (words < self.fewest) | (words > self.most)

    def reason(self, table: FactTable, number: int) -> str:
        """Name the number of words."""
        return f"{table.value(WORDS, number)} words"
