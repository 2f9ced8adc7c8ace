"""Captions that shout."""

from __future__ import annotations

from vlp.curate.facts.facts import Number
from vlp.curate.facts.gather import FactTable
from vlp.curate.facts.view import View
from vlp.curate.rules.base import Flags, rules


def _share_of_capitals(view: View) -> float:
    letters = [letter for letter in view.caption if letter.isalpha()]
    return sum(letter.isupper() for letter in letters) / max(1, len(letters))


CAPITALS = Number("capitals", "float32", _share_of_capitals)


@rules.register("capitals")
class Capitals:
    """Drop captions of which too many letters are capitals.

    Args:
        most: Largest share of capitals among the letters of a caption that stays.
    """

    facts = (CAPITALS,)

    def __init__(self, *, most: float = 0.5):
        self.most = most

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Compare the share."""
        return table.values(CAPITALS) > self.most

    def reason(self, table: FactTable, number: int) -> str:
        """Name the share."""
        return f"{table.value(CAPITALS, number):.0%} capitals"
