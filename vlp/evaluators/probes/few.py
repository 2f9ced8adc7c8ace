"""Draws of a few samples of each class, and means over such draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import scipy  # whose parts are imported when they are used
from numpy.typing import NDArray

from vlp.evaluators.groups import ones
from vlp.evaluators.intervals import proportion
from vlp.evaluators.probes.dealing import deal
from vlp.ground.types import Evaluation, Metric, PerSample, RecipeError

Learned = TypeVar("Learned")


def check_draws(shots: Sequence[int], draws: int) -> None:
    """Refuse numbers of samples or of draws that say nothing.

    Raises:
        RecipeError: Names the setting.
    """
    if not shots or min(shots) < 1 or len(set(shots)) < len(shots):
        raise RecipeError(f"settings.shots is {list(shots)}; give different numbers, each at least 1")
    if draws < 2:
        raise RecipeError(f"settings.draws is {draws}; at least two say how much the choice of images matters")


def deal_draws(shots: Sequence[int], draws: int, learn: Callable[[int, int], Learned]) -> dict[int, list[Learned]]:
    """Return what is learned from each draw of so many samples, by their number; the work is dealt to all processes.

    Args:
        learn: Takes a number of samples of each class, and which draw of them.
    """
    jobs = [(number, draw) for number in shots for draw in range(draws)]
    learned = dict(zip(jobs, deal(len(jobs), lambda job: learn(*jobs[job])), strict=True))
    return {number: [learned[number, draw] for draw in range(draws)] for number in shots}


def draw_few(labels: NDArray[np.int64], number: int, seed: int, draw: int) -> NDArray[np.int64]:
    """Draw so many samples of each class; the first of more samples are those of fewer.

    Returns:
        Places of the samples, a row per class.

    Raises:
        RecipeError: A class has less.
    """
    random = np.random.default_rng([seed, draw])
    order = random.permutation(len(labels))
    rows = []
    for label in range(int(labels.max()) + 1):
        members = order[labels[order] == label]
        if len(members) < number:
            raise RecipeError(
                f"settings.shots: {number} samples of each class are drawn, held-out ones included, and class {label} "
                f"has {len(members)}; take fewer shots"
            )
        rows.append(members[:number])
    return np.stack(rows)


def mean_over_draws(name: str, hits: NDArray[np.bool_]) -> tuple[Metric, PerSample]:
    """Share of hits over draws and samples; the interval takes both as drawn by chance.

    Its variance is that of the mean of the samples, over draws, plus that of the mean of the draws, over samples, with
    Student's quantile at Satterthwaite's degrees of freedom, as draws are few.

    Args:
        hits: A row per draw, at least two, a column per sample.
    """
    num_draws, num_samples = hits.shape
    each = hits.mean(axis=0)
    value = float(each.mean())
    by_draws = float(hits.mean(axis=1).var(ddof=1)) / num_draws
    by_samples = float(each.var(ddof=1)) / num_samples if num_samples > 1 else 0.0
    total = by_draws + by_samples
    if total > 0:
        freedom = total**2 / (by_draws**2 / (num_draws - 1) + by_samples**2 / max(1, num_samples - 1))
        spread = float(scipy.stats.t.ppf(0.975, freedom)) * total**0.5
    else:
        spread = 0.0
    metric = Metric(name, value, num_samples, max(0.0, value - spread), min(1.0, value + spread))
    return metric, PerSample(each.tolist())


def score_draws(
    alone: NDArray[np.bool_], hits: Mapping[int, NDArray[np.bool_]], details: Mapping[str, object]
) -> Evaluation:
    """Return `acc1_0shot`, what a model knows without images of the classes, and `acc1_Nshot`, what it knows with them.

    Args:
        alone: Whether each test image was right.
        hits: The same by number of shots, a row per draw.
        details: What else the record says.
    """
    metrics = [proportion("acc1_0shot", int(alone.sum()), len(alone))]
    samples, told = {"acc1_0shot": PerSample(ones(alone))}, {}
    for number, rows in hits.items():
        name = f"acc1_{number}shot"
        metric, samples[name] = mean_over_draws(name, rows)
        metrics.append(metric)
        told[name] = rows.mean(axis=1).tolist()
    return Evaluation(tuple(metrics), {"draws": told, **details}, samples)
