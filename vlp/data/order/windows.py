"""Shuffling with locality: a few shards at a time, for shards that are fetched before they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from vlp.data.order.shuffle import Ranges, Use, permute
from vlp.ground.randomness import SHARDS, WINDOW, fold


@dataclass(frozen=True)
class Epoch:
    """How one epoch goes through the shards.

    Args:
        shards: Their numbers, shuffled.
        ranges: Their sample ids, in the same order.
        starts: Place where each window begins, and the number of samples at the end.
    """

    shards: NDArray[np.int64]
    ranges: Ranges
    starts: NDArray[np.int64]

    def window_of(self, place: int) -> int:
        """Return the window that holds a place; empty ones hold none."""
        return int(np.searchsorted(self.starts, place, side="right")) - 1


class Windows:
    """Shards shuffled per epoch and taken a few at a time; the samples of each such window are shuffled together.

    Args:
        sizes: Samples of each shard.
        window: Shards of one window.
        seed: Source of the permutations.
    """

    def __init__(self, sizes: NDArray[np.int64], window: int, seed: int):
        self.num_samples = int(sizes.sum())
        self.seed = seed
        self.sizes = sizes
        self.window = window
        self._latest: tuple[tuple[int, Epoch], ...] = ()

    def samples_at(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch and the sample id of each position."""
        epochs, places = np.divmod(positions, self.num_samples)
        ids = np.empty_like(places)
        for number in np.unique(epochs):
            epoch = self._epoch(int(number))
            windows = np.searchsorted(epoch.starts, places, side="right") - 1
            for window in np.unique(windows[epochs == number]):
                here = (epochs == number) & (windows == window)
                start, end = epoch.starts[window : window + 2]
                key = fold(self.seed, WINDOW, int(number), int(window))
                ids[here] = epoch.ranges.at(start + permute(places[here] - start, int(end - start), key))
        return epochs, ids

    def peers(self, position: int) -> Ranges:
        """Return the ids of the window that a position lies in."""
        number, place = divmod(position, self.num_samples)
        epoch = self._epoch(number)
        first = epoch.window_of(place) * self.window
        ranges = epoch.ranges
        return Ranges(ranges.firsts[first : first + self.window], ranges.sizes[first : first + self.window])

    def shards_from(self, position: int) -> Iterator[Use]:
        """Yield when each shard is used, window after window, without end.

        Any shard of a window may be needed from the window's first position to its last. Empty shards never are.
        """
        number, place = divmod(position, self.num_samples)
        for later in count(number):
            epoch = self._epoch(later)
            first = epoch.window_of(place) if later == number else 0
            for rank in range(first * self.window, len(self.sizes)):
                if epoch.ranges.sizes[rank]:
                    window = rank // self.window
                    start, end = (later * self.num_samples + epoch.starts[window : window + 2]).tolist()
                    yield Use(max(position, start), end, int(epoch.shards[rank]))

    def epochs_begun(self, position: int) -> int:
        """Return how many epochs have begun before a position."""
        return -(-position // self.num_samples)

    def _epoch(self, number: int) -> Epoch:
        """Return an epoch; the last two are remembered, as a batch may touch both."""
        for known, epoch in self._latest:
            if known == number:
                return epoch
        num_shards = len(self.sizes)
        shards = permute(np.arange(num_shards), num_shards, fold(self.seed, SHARDS, number))
        ranges = Ranges((np.cumsum(self.sizes) - self.sizes)[shards], self.sizes[shards])
        starts = np.append((ranges.ends - ranges.sizes)[:: self.window], self.num_samples)
        epoch = Epoch(shards, ranges, starts)
        self._latest = (*self._latest[-1:], (number, epoch))
        return epoch
