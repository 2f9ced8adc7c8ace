"""Captions with a word, or a pair of neighbouring words, that is rare in the whole set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vlp.curate.facts.count_sketch import Sketch
from vlp.curate.facts.facts import GRAMS, MOST_WORDS, grams_of
from vlp.curate.facts.gather import FactTable
from vlp.curate.rules.base import Flags, rules
from vlp.ground.ranges import Count
from vlp.ground.types import RecipeError


@rules.register("rare_words")
class RareWords:
    """Keep captions made of frequent words and frequent pairs of words only.

    Jia et al. 2021, section 3 (arXiv:2102.05918). Three passes over hashes, none over the shards: count in a sketch of
    fixed memory, find how often the last frequent one occurs, and compare. What the sketch counts too often stays.
    Of a caption, the first 64 words are looked at.

    Args:
        frequent: How many words and pairs are frequent enough.
        megabytes: Memory of the counts, 32 bytes for each different word and pair; too little is refused.
    """

    facts = (GRAMS,)

    def __init__(self, *, frequent: Count = 100_000_000, megabytes: Count = 1024):
        self.frequent = frequent
        self.megabytes = megabytes
        self.sketch = Sketch(megabytes)
        self.fewest = 1

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Count, find the threshold, compare."""
        self.sketch.cells[:] = 0
        for _, grams in _living(table, alive):
            self.sketch.add(*np.unique(grams[grams > 0], return_counts=True))
        if self.sketch.num_different() > self.sketch.width:
            raise RecipeError(
                f"rare_words: megabytes={self.megabytes} count {self.sketch.width:,} different words and pairs well, "
                f"and the set has {self.sketch.num_different():,} or more; double it until this passes"
            )
        self.fewest = self._threshold(table, alive)
        gone = np.zeros_like(alive)
        for places, grams in _living(table, alive):
            rare = self.sketch.count(grams.ravel()).reshape(grams.shape) < self.fewest
            gone[places] = (rare & (grams > 0)).any(1)
        return gone

    def reason(self, table: FactTable, number: int) -> str:
        """Name the rarest."""
        words = table.view(number).words[:MOST_WORDS]
        names = [*words, *(" ".join(pair) for pair in pairwise(words))]
        counts = self.sketch.count(grams_of(words))
        return f"'{names[int(counts.argmin())]}' occurs {counts.min()} times, fewer than {self.fewest}"

    def _threshold(self, table: FactTable, alive: Flags) -> int:
        """Return the count at which at most `frequent` different ones are left.

        One that occurs k times in a shard and E times in all adds k / E to those that occur E times: all shards
        together add 1, and no list of them is needed.
        """
        different: Counter[int] = Counter()
        for _, grams in _living(table, alive):
            names, here = np.unique(grams[grams > 0], return_counts=True)
            totals = self.sketch.count(names)
            kinds, back = np.unique(totals, return_inverse=True)
            shares = np.bincount(back, here / totals, len(kinds))
            different.update(dict(zip(kinds.tolist(), shares.tolist(), strict=True)))
        left = 0.0
        fewest = max(different, default=0) + 1
        for total in sorted(different, reverse=True):
            left += different[total]
            if left > self.frequent + 0.5:
                break
            fewest = total
        return fewest


def _living(table: FactTable, alive: Flags) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    for places, column in table.columns(GRAMS):
        here = np.flatnonzero(alive[places])
        yield here + places.start, column.values[here]
