"""At most some samples of each caption."""

from __future__ import annotations

import numpy as np

from vlp.curate.facts.counting import ranks_within
from vlp.curate.facts.facts import CAPTION, IMAGE
from vlp.curate.facts.gather import FactTable
from vlp.curate.rules.base import Flags, rules
from vlp.ground.randomness import fold, mix_array
from vlp.ground.ranges import Count


@rules.register("caption_cap")
class CaptionCap:
    """Keep a few samples of each caption, drawn by a hash of their images; case does not count.

    Which ones depends on the samples of that caption alone, not on their place or on other samples.

    Args:
        most: Samples of a caption.
        seed: Another seed keeps others.
    """

    facts = (CAPTION, IMAGE)

    def __init__(self, *, most: Count = 10, seed: int = 0):
        self.most = most
        self.seed = seed

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Put the samples of each caption into a random order and cut it."""
        order = mix_array(table.values(IMAGE) ^ np.uint64(fold(self.seed)))
        return ranks_within(table.values(CAPTION), order, alive) >= self.most

    def reason(self, table: FactTable, number: int) -> str:
        """Name the cap."""
        return f"{self.most} others have the caption"
