"""Several sources in given proportions: which source comes when, as a pure function of the position.

Stride scheduling (Waldspurger, Weihl 1995): the k-th run of a source is due when the source's share, summed over all
positions so far, reaches k + 1/2 runs, and the runs of all sources follow each other as they are due. So the counts
never leave the wanted proportions by more than half a run per source, and any position is reached at once: only the
runs that are due near it are laid out.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlp.data.order.shuffle import NEVER, Order, Peers, Use
from vlp.data.order.timetable import Timetable


@dataclass(frozen=True)
class Ingredient:
    """One source of a mixture.

    Args:
        order: The order of its own samples: all of them come before one comes again.
        run: Samples that it gives in a row.
        first_id: Id of its first sample among all samples.
        first_shard: Number of its first shard among all shards.
    """

    order: Order
    run: int
    first_id: int
    first_shard: int


@dataclass(frozen=True)
class Runs:
    """Runs that follow each other.

    Args:
        sources: Number of each run's source.
        numbers: Which run of its source it is, from 0.
        starts: Position where each begins.
        before: Samples that each source gave before the first of these runs.
    """

    sources: NDArray[np.int64]
    numbers: NDArray[np.int64]
    starts: NDArray[np.int64]
    before: NDArray[np.int64]


class Mixture:
    """Sources that take turns; each goes through all its samples in its own order, at its own pace.

    Args:
        ingredients: The sources.
        timetable: Their shares.
        seed: Source of all that is random.
    """

    def __init__(self, ingredients: Sequence[Ingredient], timetable: Timetable, seed: int):
        self.ingredients = ingredients
        self.timetable = timetable
        self.seed = seed
        self.num_samples = sum(source.order.num_samples for source in ingredients)
        self._lengths = np.array([source.run for source in ingredients])

    def samples_at(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the source's epoch and the sample id of each position; fast where positions are neighbours."""
        sources, places = self._places_at(positions)
        epochs, ids = np.empty_like(places), np.empty_like(places)
        for source in np.unique(sources):
            here, ingredient = sources == source, self.ingredients[source]
            epochs[here], ids[here] = ingredient.order.samples_at(places[here])
            ids[here] += ingredient.first_id
        return epochs, ids

    def peers(self, position: int) -> Peers:
        """Return the ids of the same source that may stand in."""
        sources, places = self._places_at(np.array([position]))
        ingredient = self.ingredients[sources[0]]
        return ingredient.order.peers(int(places[0])).moved(ingredient.first_id)

    def shards_from(self, position: int) -> Iterator[Use]:
        """Yield when each shard is used, in the order of use from a position on."""
        places = enumerate(self._given_before(position).tolist())
        yield from heapq.merge(*(self._shards_of(source, place) for source, place in places))

    def epochs_begun(self, position: int) -> int:
        """Return how many epochs the source that comes again soonest has begun before a position."""
        given = zip(self.ingredients, self._given_before(position).tolist(), strict=True)
        return max(source.order.epochs_begun(place) for source, place in given)

    def _given_before(self, position: int) -> NDArray[np.int64]:
        """Return how many samples each source has given before a position."""
        runs = self._runs(position, position + 1)
        given = np.clip(position - runs.starts, 0, self._lengths[runs.sources])
        return runs.before + np.bincount(runs.sources, given, len(self.ingredients)).astype(np.int64)

    def _shards_of(self, source: int, place: int) -> Iterator[Use]:
        ingredient = self.ingredients[source]
        for first, end, shard in ingredient.order.shards_from(place):
            position = self._position_of(source, first)
            if position == NEVER:
                return
            yield Use(position, self._position_of(source, end), ingredient.first_shard + shard)

    def _places_at(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the source of each position, and which of the source's samples comes there."""
        gaps = np.flatnonzero(np.diff(positions) != 1) + 1
        blocks = [self._places_in(block) for block in np.split(positions, gaps)]
        sources, places = zip(*blocks, strict=True)
        return np.concatenate(sources), np.concatenate(places)

    def _places_in(self, block: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        runs = self._runs(int(block[0]), int(block[-1]) + 1)
        which = np.searchsorted(runs.starts, block, side="right") - 1
        sources = runs.sources[which]
        return sources, runs.numbers[which] * self._lengths[sources] + block - runs.starts[which]

    def _position_of(self, source: int, place: int) -> int:
        """Return where a source's sample comes; `NEVER` where the source has run dry before."""
        if place == NEVER:
            return NEVER
        number, inside = divmod(place, int(self._lengths[source]))
        (due,) = self.timetable.times_of(np.array([source]), self._amounts(np.array([source]), np.array([number])))
        if due == np.inf:
            return NEVER
        slack = int(self._lengths.sum())
        runs = self._runs(max(int(due) - slack, 0), int(due) + slack)
        (which,) = np.flatnonzero((runs.sources == source) & (runs.numbers == number))
        return int(runs.starts[which]) + inside

    def _runs(self, start: int, stop: int) -> Runs:
        """Return runs that cover the positions from `start` to `stop`, and perhaps some more."""
        # A run begins less than half the sum of all lengths away from the time at which it is due.
        slack = int(self._lengths.sum()) + 1
        early, late = max(start - slack, 0), stop + slack
        # One run more than needed at each end, as amounts and times are rounded.
        low = np.maximum(self.timetable.amounts_at(early) // self._lengths - 1, 0).astype(np.int64)
        high = (self.timetable.amounts_at(late) // self._lengths).astype(np.int64) + 2
        sources = np.repeat(np.arange(len(low)), high - low)
        numbers = np.arange(len(sources)) - np.repeat(np.cumsum(high - low) - high, high - low)
        due = self.timetable.times_of(sources, self._amounts(sources, numbers))
        past = due < early
        before = self._lengths * (low + np.bincount(sources[past], minlength=len(low)))
        sources, numbers, due = sources[~past], numbers[~past], due[~past]
        ranking = np.lexsort((sources, due))
        lengths = self._lengths[sources[ranking]]
        starts = int(before.sum()) + np.cumsum(lengths) - lengths
        return Runs(sources[ranking], numbers[ranking], starts, before)

    def _amounts(self, sources: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how much of its source is due when a run comes."""
        return (numbers + 0.5) * self._lengths[sources]
