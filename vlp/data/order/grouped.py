"""Batches that each come from one group of samples alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from vlp.data.order.shuffle import NEVER, Use, permute
from vlp.ground.randomness import GROUP, TURN, fold


@dataclass(frozen=True)
class ListedIds:
    """Sample ids, one by one.

    Args:
        ids: The ids.
    """

    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids at some places."""
        return self.ids[places]

    def moved(self, by: int) -> ListedIds:
        """Return the ids with `by` added to each."""
        return ListedIds(self.ids + by)


class Grouped:
    """Every batch holds samples of one group (Zhang et al. 2024, section 4.1, arXiv:2402.11816).

    In each epoch the samples of each group are shuffled and cut into whole batches, and the batches of all groups are
    shuffled. What is left of a group is less than a batch and rests until the next epoch, in which others rest; a
    group that fills no batch never comes. Its state is the position, as that of every order; the ids take 8 bytes for
    each sample.

    Args:
        groups: Group of each sample, by id, from 0 on; those below 0 never come.
        batch_size: Samples of one batch of the whole job.
        seed: Source of the permutations.
        num_shards: Shards that the samples lie in.

    Raises:
        ValueError: No group fills a batch.
    """

    def __init__(self, groups: Int64[NDArray[np.int64], " n"], batch_size: int, seed: int, num_shards: int = 0):
        known = groups[groups >= 0]
        self._sizes = np.bincount(known)
        self._firsts = np.cumsum(self._sizes) - self._sizes
        self._members = np.argsort(groups, kind="stable")[len(groups) - len(known) :]
        batches = self._sizes // batch_size
        self._last_batches = np.cumsum(batches)
        self._batch_size = batch_size
        self.num_samples = int(batches.sum()) * batch_size
        self.seed = seed
        self.num_shards = num_shards
        if not self.num_samples:
            raise ValueError(f"the largest of {len(self._sizes)} groups has {max(self._sizes, default=0)} samples")

    def samples_at(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch and the sample id of each position."""
        epochs, places = np.divmod(positions, self.num_samples)
        ids = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            ids[here] = self._samples_of(int(epoch), places[here])
        return epochs, ids

    def peers(self, position: int) -> ListedIds:
        """Return the ids of the group that a position lies in."""
        epoch, place = divmod(position, self.num_samples)
        group = int(self._batches_of(epoch, np.array([place]))[0][0])
        return ListedIds(self._members[self._firsts[group] :][: self._sizes[group]])

    def shards_from(self, position: int) -> Iterator[Use]:
        """Yield every shard once: any of them may be needed at once, and for ever."""
        yield from (Use(position, NEVER, shard) for shard in range(self.num_shards))

    def epochs_begun(self, position: int) -> int:
        """Return how many epochs have begun before a position."""
        return -(-position // self.num_samples)

    def _samples_of(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        groups, numbers = self._batches_of(epoch, places)
        inside = numbers * self._batch_size + places % self._batch_size
        ids = np.empty_like(places)
        for group in np.unique(groups):
            here = groups == group
            shuffled = permute(inside[here], int(self._sizes[group]), fold(self.seed, GROUP, epoch, int(group)))
            ids[here] = self._members[self._firsts[group] + shuffled]
        return ids

    def _batches_of(self, epoch: int, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the group that each place of an epoch belongs to, and the number of its batch in that group."""
        num_batches = self.num_samples // self._batch_size
        drawn = permute(places // self._batch_size, num_batches, fold(self.seed, TURN, epoch))
        groups = np.searchsorted(self._last_batches, drawn, side="right")
        before = self._last_batches[groups] - self._sizes[groups] // self._batch_size
        return groups, drawn - before
