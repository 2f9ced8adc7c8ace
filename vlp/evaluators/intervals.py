"""95 % intervals. Samples are taken as drawn from a larger population; the model is fixed."""

from __future__ import annotations

import math

import numpy as np

from vlp.ground.types import Metric

Z = 1.959963984540054
NUM_RESAMPLES = 1000


def proportion(name: str, hits: float, count: int) -> Metric:
    """Share of hits, which ties may split, with Wilson's score interval (Wilson 1927)."""
    share = hits / count
    centre = share + Z * Z / (2 * count)
    spread = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    return Metric(name, share, count, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def mean_of_proportions(name: str, hits: np.ndarray, counts: np.ndarray, *, seed: int = 0) -> Metric:
    """Unweighted mean of shares; bootstrap that resamples within each group (groups without samples are left out).

    Resampling n samples of which h are hits, with replacement, gives Binomial(n, h / n) hits.
    """
    hits, counts = hits[counts > 0], counts[counts > 0]
    shares = hits / counts
    draws = np.random.default_rng(seed).binomial(counts, shares, size=(NUM_RESAMPLES, len(counts))) / counts
    return _with_percentiles(name, float(shares.mean()), int(counts.sum()), draws.mean(axis=1))


def mean(name: str, values: np.ndarray, weights: np.ndarray | None = None, *, seed: int = 0) -> Metric:
    """Weighted mean of one value per sample; bootstrap over samples.

    Args:
        weights: How much each sample counts; equal when absent.
    """
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    random = np.random.default_rng(seed)
    means = np.empty(NUM_RESAMPLES)
    for resample in range(NUM_RESAMPLES):
        chosen = random.integers(len(values), size=len(values))
        means[resample] = values[chosen] @ weights[chosen] / weights[chosen].sum()
    return _with_percentiles(name, float(values @ weights / weights.sum()), len(values), means)


def linearised(name: str, value: float, influences: np.ndarray, *, least: float = 0.0, most: float = 1.0) -> Metric:
    """Any smooth number of weighted samples, with its infinitesimal jackknife interval (Jaeckel 1972; Efron 1982).

    Args:
        influences: Derivative of the number by the weight of each sample, where all weights are 1.
        least: What the number cannot fall below.
        most: What it cannot exceed.
    """
    spread = Z * float(np.sqrt(np.square(influences, dtype=np.float64).sum()))
    # rounding may have put the number itself past its limits
    low, high = max(least, value - spread), min(most, value + spread)
    return Metric(name, value, len(influences), min(low, value), max(high, value))


def mean_of_means(name: str, values: np.ndarray, groups: np.ndarray) -> Metric:
    """Unweighted mean over groups of the means within them, of numbers between 0 and 1; many are as cheap as few.

    Args:
        groups: Of each value, numbered from 0, none empty.
    """
    values = np.asarray(values, dtype=np.float64)
    counts = np.bincount(groups)
    means = np.bincount(groups, weights=values) / counts
    return linearised(name, float(means.mean()), (values - means[groups]) / counts[groups] / len(counts))


def median(name: str, values: np.ndarray) -> Metric:
    """Median with the distribution-free interval between two order statistics (None below 6 values).

    The number of values below the true median is Binomial(n, 1/2); the interval is the narrowest symmetric one
    that holds 95 %, by the normal approximation with continuity correction above 50 values.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    below = _median_rank(len(ordered))
    if below is None:
        return Metric(name, float(np.median(ordered)), len(ordered))
    low, high = float(ordered[below]), float(ordered[len(ordered) - 1 - below])
    return Metric(name, float(np.median(ordered)), len(ordered), low, high)


def quantile(name: str, values: np.ndarray, share: float) -> Metric:
    """Quantile with the distribution-free interval between two order statistics (None where the sample is too small).

    The number of values below the true quantile is Binomial(n, share), taken as normal (Conover 1999, section 3.2).
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    size, value = len(ordered), float(np.quantile(ordered, share))
    spread = Z * math.sqrt(size * share * (1 - share))
    below, above = math.ceil(size * share - spread) - 1, math.ceil(size * share + spread) - 1
    if below < 0 or above >= size:
        return Metric(name, value, size)
    return Metric(name, value, size, float(ordered[below]), float(ordered[above]))


def _median_rank(size: int) -> int | None:
    if size > 50:
        return int(size / 2 - Z * math.sqrt(size) / 2 - 0.5)
    tail, below = 0.0, -1
    while (tail := tail + math.comb(size, below + 1) / 2**size) <= 0.025:
        below += 1
    return below if below >= 0 else None


def _with_percentiles(name: str, value: float, count: int, draws: np.ndarray) -> Metric:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Metric(name, value, count, float(low), float(high))
