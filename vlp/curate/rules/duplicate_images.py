"""Images that look like an earlier one of the set."""

from __future__ import annotations

import numpy as np

from vlp.curate.facts.facts import LOOK
from vlp.curate.facts.gather import FactTable
from vlp.curate.facts.perceptual import check_distance, twins
from vlp.curate.rules.base import Flags, rules
from vlp.ground.ranges import Whole


@rules.register("duplicate_images")
class DuplicateImages:
    """Keep the first of images that look the same, whatever their captions say.

    Args:
        distance: Bits of 64 in which the perceptual codes of equal images may differ; 0 to 8.
        color: Largest difference of their mean red, green or blue, of 255; 255 lets colours differ.
    """

    facts = (LOOK,)

    def __init__(self, *, distance: int = 2, color: Whole = 8):
        self.color = color
        self.distance = check_distance(distance)
        self._twins = np.empty(0, dtype=np.int64)

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Compare each image with those before it."""
        places = np.flatnonzero(alive)
        looks = table.values(LOOK)[places]
        found = twins(looks["code"], self.distance, looks["color"], self.color)
        self._twins = np.full(len(table), -1, dtype=np.int64)
        self._twins[places] = np.where(found < 0, -1, places[found])
        return self._twins >= 0

    def reason(self, table: FactTable, number: int) -> str:
        """Name the one that stays."""
        twin = int(self._twins[number])
        return f"looks like '{table.view(twin).key}' of {table.shard_name(twin)}"
