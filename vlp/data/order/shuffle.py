"""Which sample comes when: a pure function of (seed, epoch, position).

Each epoch is a permutation of all samples, computed per position by a Feistel network, so that no process ever holds
a list of the data: 10^10 samples cost as little memory as ten, and any position is reached at once.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vlp.ground.randomness import GOLDEN, ORDER, SUBSTITUTE, Draws, fold, mix_array

ROUNDS = 6
NEVER = sys.maxsize


class Use(NamedTuple):
    """From when on and how long samples of a shard may come.

    Args:
        first: The first position at which one may come.
        end: The first position from which on none comes any more; `NEVER` where there is none.
        shard: Its number.
    """

    first: int
    end: int
    shard: int


class Peers(Protocol):
    """Sample ids, each at a place."""

    def __len__(self) -> int: ...

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids at some places."""
        ...

    def moved(self, by: int) -> Peers:
        """Return them with `by` added to every id."""
        ...


class Order(Protocol):
    """The endless sequence of samples of a run; epochs follow each other without a gap.

    Args:
        num_samples: Samples of one epoch.
        seed: Source of all that is random.
    """

    num_samples: int
    seed: int

    def samples_at(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch and the sample id of each position."""
        ...

    def peers(self, position: int) -> Peers:
        """Return the ids that may stand in for the sample at a position."""
        ...

    def shards_from(self, position: int) -> Iterator[Use]:
        """Yield when each shard is used, in the order of use from a position on."""
        ...

    def epochs_begun(self, position: int) -> int:
        """Return how many epochs have begun before a position; of several sources, those of the fastest."""
        ...


class Shuffle:
    """All samples shuffled together.

    Args:
        num_samples: Samples of one epoch.
        seed: Source of the permutations.
        num_shards: Shards that the samples lie in.
    """

    def __init__(self, num_samples: int, seed: int, num_shards: int = 0):
        self.num_samples = num_samples
        self.seed = seed
        self.num_shards = num_shards

    def samples_at(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch and the sample id of each position."""
        epochs, places = np.divmod(positions, self.num_samples)
        ids = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            ids[here] = permute(places[here], self.num_samples, fold(self.seed, ORDER, int(epoch)))
        return epochs, ids

    def peers(self, _position: int) -> Ranges:
        """Return all ids."""
        return Ranges(np.array([0]), np.array([self.num_samples]))

    def shards_from(self, position: int) -> Iterator[Use]:
        """Yield every shard once: any of them may be needed at once, and for ever."""
        yield from (Use(position, NEVER, shard) for shard in range(self.num_shards))

    def epochs_begun(self, position: int) -> int:
        """Return how many epochs have begun before a position."""
        return -(-position // self.num_samples)


@dataclass(frozen=True)
class Ranges:
    """Ranges of sample ids, laid end to end.

    Args:
        firsts: First id of each range.
        sizes: Length of each range.
    """

    firsts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.ends[-1])

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Place after each range."""
        return np.cumsum(self.sizes)

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids at some places."""
        which = np.searchsorted(self.ends, places, side="right")
        return self.firsts[which] + places - (self.ends - self.sizes)[which]

    def moved(self, by: int) -> Ranges:
        """Return the ranges with `by` added to every id."""
        return replace(self, firsts=self.firsts + by)


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
        peers = self.order.peers(position)
        first = Draws(self.order.seed, SUBSTITUTE, position, attempt).integer(len(peers))
        # Among one place more than there are members, one is free.
        places = (first + np.arange(min(len(peers), len(self.positions) + 1))) % len(peers)
        candidates = peers.at(places).tolist()
        return next((number for number in candidates if number not in self._members), candidates[0])

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
