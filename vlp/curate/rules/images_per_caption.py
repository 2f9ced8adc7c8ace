"""Captions that too many images share."""

from __future__ import annotations

from vlp.curate.facts.counting import counts_among
from vlp.curate.facts.facts import CAPTION
from vlp.curate.facts.gather import FactTable
from vlp.curate.rules.base import Flags, rules
from vlp.ground.ranges import Count


@rules.register("images_per_caption")
class ImagesPerCaption:
    """Drop all samples of a caption that many share, such as "image for sale"; case does not count.

    Jia et al. 2021, section 3 (arXiv:2102.05918).

    Args:
        most: Samples with a caption that stays.
    """

    facts = (CAPTION,)

    def __init__(self, *, most: Count = 10):
        self.most = most

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Count the samples of each caption."""
        return counts_among(table.values(CAPTION), alive) > self.most

    def reason(self, table: FactTable, number: int) -> str:
        """Name the limit."""
        return f"a caption of more than {self.most} samples"
