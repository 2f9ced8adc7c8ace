"""Counts of any number of things in fixed memory: never too low, too high where things share all their cells."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vlp.ground.randomness import GOLDEN, mix_array

ROWS = 4


class Sketch:
    """A count-min sketch (Cormode, Muthukrishnan 2005).

    A count is too high by at most e / width of all that was counted, but for one thing in e^4 = 55. Measured on
    captions: 99 % of the counts are exact with 0.36 different things per cell of a row, 93 % with 0.73, 66 % with 1.45.

    Args:
        megabytes: Memory; the width is the largest power of two that fits.
    """

    def __init__(self, megabytes: int):
        self.bits = (megabytes * 2**20 // (8 * ROWS)).bit_length() - 1
        self.cells = np.zeros((ROWS, self.width), dtype=np.int64)

    @property
    def width(self) -> int:
        """Cells of a row: about as many different things can be counted well."""
        return 1 << self.bits

    def num_different(self) -> int:
        """Estimate how many different things were added, from the cells that are still empty."""
        empty = int((self.cells[0] == 0).sum())
        return round(-self.width * math.log(max(empty, 1) / self.width))

    def add(self, hashes: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
        """Count things again."""
        for row, places in enumerate(self._places(hashes)):
            np.add.at(self.cells[row], places, counts)

    def count(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return how often each thing was added, or more."""
        found = [self.cells[row][places] for row, places in enumerate(self._places(hashes))]
        return np.minimum.reduce(found)

    def _places(self, hashes: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
        salts = [np.uint64((row + 1) * GOLDEN & ((1 << 64) - 1)) for row in range(ROWS)]
        return [(mix_array(hashes ^ salt) >> np.uint64(64 - self.bits)).astype(np.int64) for salt in salts]
