"""Accuracy of the worst group of samples, as WILDS, Dollar Street and GeoDE score it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean_of_proportions, proportion
from vlp.ground.registry import nearest
from vlp.ground.types import Evaluation, Metric, PerSample, RecipeError


def column_of(data: EvaluationSet, name: str, key: str) -> NDArray[np.int64]:
    """Return a number per sample.

    Args:
        key: The setting that asks for it, for messages.

    Raises:
        RecipeError: `data.groups` has no such column.
    """
    if name not in data.groups:
        raise RecipeError(f"{key}: data.groups has no column '{name}'{nearest(name, data.groups)}")
    return data.groups[name]


def check_ignored(groups: NDArray[np.int64], ignored: Sequence[int], key: str) -> None:
    """Refuse to leave out groups that are not there, or all of them.

    Raises:
        RecipeError: Names the setting.
    """
    present = set(groups.tolist())
    if absent := sorted(set(ignored) - present):
        raise RecipeError(f"{key}: no sample is in group {absent[0]}; there are {_some(sorted(present))}")
    if present <= set(ignored):
        raise RecipeError(f"{key} leaves out all groups")


@dataclass(frozen=True)
class GroupCounts:
    """Samples and hits of each group.

    Args:
        values: What the groups are called.
        places: Place of the group of each sample among these.
    """

    values: NDArray[np.int64]
    places: NDArray[np.intp]
    samples: NDArray[np.int64]
    hits: NDArray[np.int64]

    def mean(self, name: str) -> Metric:
        """Return the mean of the shares of hits within groups."""
        return mean_of_proportions(name, self.hits, self.samples)

    def details(self, counted: str = "samples", found: str = "hits") -> dict[str, list[int]]:
        """Return all numbers, under the names that samples and hits have in a record."""
        return {"values": self.values.tolist(), counted: self.samples.tolist(), found: self.hits.tolist()}


def count_groups(hits: NDArray[np.bool_], groups: NDArray[np.int64]) -> GroupCounts:
    """Count samples and hits by group."""
    values, places = np.unique(groups, return_inverse=True)
    return GroupCounts(values, places, np.bincount(places), np.bincount(places[hits], minlength=len(values)))


def ones(hits: NDArray[np.bool_]) -> list[float]:
    """Return zeros and ones, as records keep what each sample adds to a share."""
    found: list[float] = hits.astype(float).tolist()
    return found


def score_groups(
    hits: NDArray[np.bool_], groups: NDArray[np.int64], metric: str, column: str, ignored: Sequence[int] = ()
) -> Evaluation:
    """Score each group: the worst, with the interval of that group alone, and the mean of all.

    Of equally bad groups the first is named. Koh et al. 2021 (arXiv 2012.07421), as DataComp computes it.

    Args:
        metric: Such as `acc1`; `worst_group_acc1` and `mean_group_acc1` come out.
        ignored: Groups that cannot be the worst; the mean counts them.
    """
    found = count_groups(hits, groups)
    shares = np.where(np.isin(found.values, ignored), np.inf, found.hits / found.samples)
    worst = int(shares.argmin())
    told = found.details() | {"ignored": sorted(ignored), "worst": int(found.values[worst])}
    metrics = (
        proportion(f"worst_group_{metric}", int(found.hits[worst]), int(found.samples[worst])),
        found.mean(f"mean_group_{metric}"),
    )
    samples = {f"mean_group_{metric}": PerSample(ones(hits), found.places.tolist())}
    return Evaluation(metrics, {f"groups_{metric}_by_{column}": told}, samples)


def _some(values: list[int]) -> str:
    return f"{', '.join(map(str, values[:12]))}{' ...' if len(values) > 12 else ''}"
