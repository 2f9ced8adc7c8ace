"""Images that too many captions go with."""

from __future__ import annotations

import numpy as np

from vlp.curate.facts.counting import counts_among
from vlp.curate.facts.facts import CAPTION, IMAGE
from vlp.curate.facts.gather import FactTable
from vlp.curate.rules.base import Flags, rules
from vlp.ground.randomness import mix_array
from vlp.ground.ranges import Count


@rules.register("captions_per_image")
class CaptionsPerImage:
    """Drop all samples of an image, byte by byte the same, that has many different captions.

    Jia et al. 2021, section 3 (arXiv:2102.05918).

    Args:
        most: Captions of an image that stays.
    """

    facts = (IMAGE, CAPTION)

    def __init__(self, *, most: Count = 1000):
        self.most = most

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Count different captions of each image."""
        images = table.values(IMAGE)
        pairs = images ^ mix_array(table.values(CAPTION))
        places = np.flatnonzero(alive)
        first = np.zeros_like(alive)
        first[places[np.unique(pairs[alive], return_index=True)[1]]] = True
        crowded = images[first & (counts_among(images, first) > self.most)]
        return np.isin(images, crowded)

    def reason(self, table: FactTable, number: int) -> str:
        """Name the limit."""
        return f"an image with more than {self.most} captions"
