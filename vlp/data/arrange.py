"""From the sources of a recipe to the order of their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from vlp.data.order.batch_sizes import BatchSizes
from vlp.data.order.grouped import Grouped
from vlp.data.order.mixture import Ingredient, Mixture
from vlp.data.order.shuffle import Order, Shuffle
from vlp.data.order.timetable import Ramp, Timetable
from vlp.data.order.windows import Windows
from vlp.data.samples import SampleSet
from vlp.data.shards.room import check_cache
from vlp.ground.randomness import SOURCE, fold
from vlp.ground.types import RecipeError

Mixing = Literal["sample", "batch", "shard"]


def arrange(
    samples: SampleSet,
    *,
    seed: int,
    batch_size: int,
    first_batches: Sequence[tuple[int, int]] = (),
    shares: Mapping[str, Ramp] | None = None,
    mixing: Mixing = "sample",
    shuffle_shards: int | None = None,
    groups: Int64[NDArray[np.int64], " n"] | None = None,
) -> Order:
    """Return the order of a run.

    Args:
        samples: All samples.
        seed: Source of all that is random.
        batch_size: Samples of one step of the whole job.
        first_batches: Stages before: samples of one step, and how many steps take so many.
        shares: How much each source counts; without any, all samples of all sources count the same.
        mixing: What comes from one source in a row: a sample, a batch, or as many batches as fill a typical shard.
        shuffle_shards: Shards whose samples are shuffled together; None shuffles all.
        groups: Group of each sample, where batches hold one group each; one group of all is none.

    Raises:
        RecipeError: Settings that contradict each other, or a cache too small for what is shuffled together.
    """
    sources = [samples.parts[places] for places in samples.places.values()] if shares else [samples.parts]
    check_cache(samples.cards.values(), ([part.shard for part in parts] for parts in sources), shuffle_shards)
    if groups is not None and np.any(groups != 0):
        if first_batches:
            raise RecipeError("train.first_batches: batches of one group have one size: leave it or data.groups out")
        return _group(groups, batch_size, seed, len(samples.parts), shuffle_shards)
    if not shares:
        if mixing != "sample":
            raise RecipeError(f"data.mixing={mixing} takes turns by share: give every source of data.train a share")
        return _shuffle(samples.sizes, seed, shuffle_shards)
    _check_shares(samples, shares)
    if mixing != "sample" and first_batches:
        raise RecipeError(
            f"data.mixing={mixing}: runs of {batch_size} samples do not fall together with the smaller batches of "
            "train.first_batches: set data.mixing=sample, or leave first_batches out"
        )
    ingredients = []
    for number, parts in enumerate(samples.places.values()):
        held = samples.sizes[parts]
        order = _shuffle(held, fold(seed, SOURCE, number), shuffle_shards)
        first_id = int(samples.sizes[: parts.start].sum())
        ingredients.append(Ingredient(order, _run(mixing, held, batch_size), first_id, parts.start))
    try:
        timetable = Timetable([shares[source] for source in samples.places], BatchSizes(batch_size, first_batches))
        return Mixture(ingredients, timetable, seed)
    except ValueError as error:
        raise RecipeError(f"data.train: {error}: one source must have a share at every step") from error


def _shuffle(sizes: NDArray[np.int64], seed: int, window: int | None) -> Order:
    return Shuffle(int(sizes.sum()), seed, len(sizes)) if window is None else Windows(sizes, window, seed)


def _group(
    groups: Int64[NDArray[np.int64], " n"], batch_size: int, seed: int, num_shards: int, shuffle_shards: int | None
) -> Order:
    if shuffle_shards is not None:
        raise RecipeError("data.shuffle_shards: a group lies in all shards: leave it out, or leave data.groups out")
    try:
        return Grouped(groups, batch_size, seed, num_shards)
    except ValueError as error:
        raise RecipeError(
            f"data.groups: {error}, fewer than train.batch_size={batch_size}: lower it, or make fewer groups"
        ) from error


def _run(mixing: Mixing, sizes: NDArray[np.int64], batch_size: int) -> int:
    """Return how many samples of a source come in a row."""
    if mixing == "sample":
        return 1
    if mixing == "batch":
        return batch_size
    return max(1, round(float(np.median(sizes[sizes > 0])) / batch_size)) * batch_size


def _check_shares(samples: SampleSet, shares: Mapping[str, Ramp]) -> None:
    without = [source for source in samples.cards if source not in shares]
    if without:
        raise RecipeError(f"data.train: {', '.join(without)}: no share; give a share to every source or to none")
    if len(shares) == 1:
        raise RecipeError(f"data.train.{next(iter(shares))}.share: it is the only source; leave the share out")
    for source, parts in samples.places.items():
        if samples.repeats.get(source, 1) > 1:
            raise RecipeError(
                f"data.train.{source}: repeat and share both say how much a source counts; leave repeat out"
            )
        if not samples.sizes[parts].any():
            raise RecipeError(f"data.train.{source}: not one sample in its shards; take the source out or repair them")
