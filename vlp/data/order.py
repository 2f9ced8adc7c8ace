"""Which sample comes when: a pure function of (seed, epoch, position).

Each epoch is a permutation of all samples, computed per position by a Feistel network, so that no process ever holds
a list of the data: 10^10 samples cost as little memory as ten, and any position is reached at once.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vlp.data.randomness import GOLDEN, ORDER, SUBSTITUTE, Draws, fold, mix_array

ROUNDS = 6


class Order:
    """The endless sequence of samples of a run; epochs follow each other without a gap.

    Args:
        num_samples: Samples of one epoch.
        seed: Source of the permutations.
    """

    def __init__(self, num_samples: int, seed: int):
        self.num_samples = num_samples
        self.seed = seed

    def samples_at(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch and the sample id of each position."""
        epochs, places = np.divmod(positions, self.num_samples)
        ids = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            ids[here] = permute(places[here], self.num_samples, fold(self.seed, ORDER, int(epoch)))
        return epochs, ids

    def sample_at(self, position: int) -> tuple[int, int]:
        """Return the epoch and the sample id of one position."""
        epochs, ids = self.samples_at(np.array([position]))
        return int(epochs[0]), int(ids[0])


class Substitutes:
    """Who stands in for the bad samples of one global batch: samples that are no members of it, where there are any.

    Args:
        order: The order of the run.
        start: First position of the batch.
        batch_size: Positions of the batch.
    """

    def __init__(self, order: Order, start: int, batch_size: int):
        self.order = order
        self.positions = np.arange(start, start + batch_size)

    def at(self, position: int, attempt: int) -> int:
        """Return the id to try at a position; `attempt` counts from 1."""
        size = self.order.num_samples
        number = Draws(self.order.seed, SUBSTITUTE, position, attempt).integer(size)
        while number in self._members and len(self._members) < size:
            number = (number + 1) % size
        return number

    @cached_property
    def _members(self) -> set[int]:
        return set(self.order.samples_at(self.positions)[1].tolist())


def permute(places: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Map distinct places in [0, size) to distinct places in [0, size).

    A place is split into a row and a column of the smallest rectangle of nearly equal sides that holds `size` places;
    results outside `size` walk on through the same bijection until they fall inside (Black, Rogaway 2002, section 3).
    """
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    keys = mix_array(np.uint64(key) + np.arange(1, 2 * ROUNDS + 1, dtype=np.uint64) * np.uint64(GOLDEN))
    values = places.astype(np.uint64)
    outside = np.arange(len(values))
    while len(outside):
        values[outside] = _feistel(values[outside], np.uint64(rows), np.uint64(columns), keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(
    values: NDArray[np.uint64], rows: np.uint64, columns: np.uint64, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    row, column = np.divmod(values, columns)
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        row = (row + mix_array(column + first) % rows) % rows
        column = (column + mix_array(row + second) % columns) % columns
    return row * columns + column
