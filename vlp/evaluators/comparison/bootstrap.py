"""Resampling of paired samples and of training seeds, and tests of differences. Every draw is seeded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # whose parts are imported when they are used
from numpy.typing import NDArray

from vlp.evaluators.intervals import Z

NUM_RESAMPLES = 10_000
MOST_PATTERNS = 64  # beyond, drawing samples one by one is faster than drawing how often each pattern comes
AT_ONCE = 2**22
Array = NDArray[np.float64]


def resample_means(values: Array, groups: NDArray[np.int64] | None, random: np.random.Generator) -> Array:
    """Return the metric of each run in each resample; the same samples are drawn for all runs.

    Args:
        values: What each sample adds, [runs, samples].
        groups: Where given, samples are drawn within their groups and the metric is the mean of the groups' means.

    Returns:
        [NUM_RESAMPLES, runs].
    """
    if groups is None:
        return _resample(values, random)
    _, places = np.unique(groups, return_inverse=True)
    order = np.argsort(places, kind="stable")
    parts = np.split(values[:, order], np.flatnonzero(np.diff(places[order])) + 1, axis=1)
    total = np.zeros((NUM_RESAMPLES, len(values)))
    for part in parts:
        total += _resample(part, random)
    return total / len(parts)


def _resample(values: Array, random: np.random.Generator) -> Array:
    """Samples that look the same to all runs are drawn together: how often each pattern comes is multinomial."""
    size = values.shape[1]
    patterns, counts = np.unique(values, axis=1, return_counts=True)
    if len(counts) == 1:
        return np.tile(values[:, 0], (NUM_RESAMPLES, 1))
    if len(counts) <= MOST_PATTERNS:
        drawn: Array = random.multinomial(size, counts / size, size=NUM_RESAMPLES) @ patterns.T / size
        return drawn
    chunk = max(1, AT_ONCE // (size * len(values)))
    sizes = [min(chunk, NUM_RESAMPLES - start) for start in range(0, NUM_RESAMPLES, chunk)]
    return np.concatenate([values[:, random.integers(size, size=(rows, size))].mean(axis=2).T for rows in sizes])


def draw_from_interval(value: float, low: float, high: float, random: np.random.Generator) -> Array:
    """Return draws whose 95 % lie in an interval that need not be symmetric: half a normal on either side."""
    draws = random.standard_normal(NUM_RESAMPLES) / Z
    return value + np.where(draws > 0, draws * (high - value), draws * (value - low))


def seed_weights(num_seeds: int, random: np.random.Generator) -> Array:
    """Return how much each training seed counts in each resample, [NUM_RESAMPLES, seeds].

    One fewer than there are is drawn, with replacement: this gives the unbiased variance of their mean (Rao and Wu
    1988), where drawing all of them would give two thirds of it for three seeds.
    """
    if num_seeds == 1:
        return np.ones((NUM_RESAMPLES, 1))
    drawn = num_seeds - 1
    weights: Array = random.multinomial(drawn, [1 / num_seeds] * num_seeds, size=NUM_RESAMPLES) / drawn
    return weights


def widen(draws: Array, value: float, seed_values: list[Array], random: np.random.Generator) -> Array:
    """Widen draws around a value as Student's t widens a normal, because few seeds tell little of their variance.

    Args:
        seed_values: For each model of which there are several seeds, the value of each seed.

    Returns:
        Draws with the degrees of freedom of Satterthwaite 1946; as they are where no variance comes from seeds.
    """
    parts = [(float(values.var(ddof=1)) / len(values), len(values) - 1) for values in seed_values]
    divisor = sum(variance**2 / freedom for variance, freedom in parts)
    if divisor == 0:
        return draws
    freedom = float(draws.var()) ** 2 / divisor
    wider: Array = value + (draws - value) * np.sqrt(freedom / random.chisquare(freedom, NUM_RESAMPLES))
    return wider


@dataclass(frozen=True)
class Difference:
    """How much higher the second of two is, with a 95 % interval.

    Args:
        low: None, as `high`, where all draws are the same and not zero: one sample tells no spread.
        probability: That the one that scored higher is higher: the share of resamples in which it is, equal ones half.
        p: Two-sided; how easily a difference as large comes about between equals.
    """

    value: float
    low: float | None
    high: float | None
    probability: float
    p: float


def difference(value: float, draws: Array, *, least_p: float = 0.0) -> Difference:
    """Sum up the draws of a difference; none of its numbers is finer than the number of draws allows.

    Args:
        least_p: What p cannot go below, however the draws fall.
    """
    has_spread = value == 0 or bool((draws != draws[0]).any())
    low, high = map(float, np.percentile(draws, [2.5, 97.5]))
    above, below = int((draws > 0).sum()), int((draws < 0).sum())
    share = (above + (len(draws) - above - below) / 2) / len(draws)
    against = len(draws) - max(above, below)
    p = min(1.0, max(least_p, 2 * (against + 1) / (len(draws) + 1)))
    probability = share if value > 0 else 1 - share if value < 0 else 0.5
    return Difference(value, low if has_spread else None, high if has_spread else None, probability, p)


def least_p(num_differing: float) -> float:
    """Return the smallest p of any sign test: all samples that differ may do so in one direction by chance.

    A bootstrap of one sample, or of three that agree, would be sure of what it cannot know.
    """
    return min(1.0, 2.0 ** (1 - num_differing))


def is_binary(values: Array) -> bool:
    """Whether all are zeros and ones."""
    return bool(((values == 0) | (values == 1)).all())


def mcnemar(first: Array, second: Array) -> float:
    """Return the exact two-sided p of McNemar 1947 for zeros and ones of the same samples.

    Of the samples that only one model gets right, each model is as likely to be the one.
    """
    gained, lost = int((second > first).sum()), int((first > second).sum())
    return float(scipy.stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p_values: list[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979): the chance of any false one stays below the level."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
