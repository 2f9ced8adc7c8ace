"""The main metric of one task for all models: its values, its resamples, and each pair of models on it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlp.evaluators.comparison import bootstrap
from vlp.evaluators.comparison.bootstrap import Array, Difference
from vlp.evaluators.comparison.same_data import check_same_samples
from vlp.evaluators.comparison.score_folders import Contestant, value_of
from vlp.evaluators.per_sample import MetricSamples

LOWER_IS_BETTER = (
    *("median_rank", "hubness", "never_retrieved", "followed", "followed_clean"),
    *("toxicity_crime", "toxicity_nonhuman"),
)
NEITHER = ("modality_nmi",)
# Evaluators whose numbers are neither good nor bad, but for those that end so.
DESCRIBE_ONLY: Mapping[str, tuple[str, ...]] = {
    "geometry": (),
    "tolerance": (),
    "diagnostics": ("query_auc", "hubness", "never_retrieved", "rankme_image", "rankme_text"),
}
Pair = tuple[int, int]
"""Places of two models among those compared."""


@dataclass(frozen=True)
class TaskScores:
    """The main metric of one task; lists have an entry for each model.

    Args:
        sign: 1 where higher is better, -1 where lower is, 0 where neither is.
        count: Number of samples.
        values: [runs] of each model.
        draws: [resamples, runs] of each model; None where a record has no interval.
        samples: Of each run of each model; None where runs are not paired.
    """

    task: str
    metric: str
    sign: int
    count: int
    values: list[Array]
    draws: list[Array] | None
    samples: list[list[MetricSamples]] | None

    def test(self, pair: Pair, weights: Sequence[Array]) -> tuple[Difference | None, str]:
        """Return how much higher the second model of a pair is, and the name of the test that p comes from."""
        if self.draws is None:
            return None, "no interval"
        least = bootstrap.least_p(self.num_differing(pair))
        found = difference_of(pair, self.values, self.draws, weights, random_of(self.task, *pair), least)
        if (p := self._mcnemar(pair)) is not None:
            return replace(found, p=p), "McNemar"
        return found, "paired bootstrap" if self.samples else "unpaired intervals"

    def num_differing(self, pair: Pair) -> float:
        """Count the samples on which two models differ, their seeds averaged; endless where samples are not known."""
        if self.samples is None:
            return math.inf
        first, second = (np.mean([run.values for run in self.samples[place]], axis=0) for place in pair)
        return int((first != second).sum())

    def _mcnemar(self, pair: Pair) -> float | None:
        """McNemar's test is of accuracies: one run of each model, zeros and ones, no means over groups."""
        runs = [run for place in pair for run in self.samples[place]] if self.samples else []
        if len(runs) != 2 or not all(run.groups is None and bootstrap.is_binary(run.values) for run in runs):
            return None
        return bootstrap.mcnemar(runs[0].values, runs[1].values)


def score_task(task: str, models: Sequence[Contestant]) -> tuple[TaskScores, str | None]:
    """Read and resample one task; also say why its runs are not paired, where they are not.

    Raises:
        RecipeError: A table of samples is damaged, that of another record, or of other samples.
    """
    runs = [run for model in models for run in model.runs]
    sizes = [len(model.runs) for model in models]
    record = runs[0].records[task]
    metric = record["main_metric"]
    found = [run.samples(task) for run in runs]
    there = [each for each in found if each is not None]
    samples, unpaired = None, None
    if len(there) == len(runs):
        check_same_samples(there, runs)
        drawn = bootstrap.resample_means(np.stack([each.values for each in there]), there[0].groups, random_of(task))
        draws: list[Array] | None = np.split(drawn, np.cumsum(sizes)[:-1], axis=1)
        left = iter(there)
        samples = [[next(left) for _ in range(size)] for size in sizes]
    else:
        draws = _draws_of_intervals(task, models)
        lacking = [str(run.folder) for run, each in zip(runs, found, strict=True) if each is None]
        unpaired = f"not paired: no samples of the main metric in {', '.join(lacking)}"
    scores = TaskScores(
        task=task,
        metric=metric,
        sign=sign_of(record["evaluator"], metric),
        count=int(record["metrics"][metric]["count"]),
        values=[np.array([value_of(run.records[task]) for run in model.runs]) for model in models],
        draws=draws,
        samples=samples,
    )
    return scores, unpaired


def sign_of(evaluator: str, metric: str) -> int:
    """Return 1 where higher is better, -1 where lower is, 0 where neither is."""
    if metric.endswith(NEITHER) or not metric.endswith(DESCRIBE_ONLY.get(evaluator, "")):
        return 0
    return -1 if metric.endswith(LOWER_IS_BETTER) else 1


def difference_of(
    pair: Pair,
    values: Sequence[Array],
    draws: Sequence[Array],
    weights: Sequence[Array],
    random: np.random.Generator,
    least_p: float,
) -> Difference:
    """Return how much higher the second model of a pair is; in each resample samples are drawn, and seeds.

    Args:
        weights: How much each seed of each model counts in each resample.
    """
    first, second = ((draws[place] * weights[place]).sum(axis=1) for place in pair)
    value = float(values[pair[1]].mean() - values[pair[0]].mean())
    seeds = [values[place] for place in pair if len(values[place]) > 1]
    return bootstrap.difference(value, bootstrap.widen(second - first, value, seeds, random), least_p=least_p)


def random_of(name: str, *places: int) -> np.random.Generator:
    """Return a generator of its own for everything that is drawn: other tasks change no number of a task."""
    return np.random.default_rng([zlib.crc32(name.encode()), *places])


def _draws_of_intervals(task: str, models: Sequence[Contestant]) -> list[Array] | None:
    """Draw from the intervals of records; seeds of one model share their draws, as they share their samples."""
    drawn = []
    for place, model in enumerate(models):
        columns = []
        for run in model.runs:
            metric = run.records[task]["metrics"][run.records[task]["main_metric"]]
            if metric["low"] is None or metric["high"] is None:
                return None
            columns.append(
                bootstrap.draw_from_interval(metric["value"], metric["low"], metric["high"], random_of(task, place))
            )
        drawn.append(np.stack(columns, axis=1))
    return drawn
