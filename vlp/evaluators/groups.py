"""Accuracy of the worst group of samples, as WILDS, Dollar Street and GeoDE score it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.intervals import mean_of_proportions, proportion
from vlp.ground.registry import nearest
from vlp.ground.types import Evaluation, PerSample, RecipeError


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


def score_groups(
    hits: NDArray[np.bool_], groups: NDArray[np.int64], metric: str, column: str, ignored: Sequence[int] = ()
) -> Evaluation:
    """Score each group: the worst, with the interval of that group alone, and the mean of all.

    Of equally bad groups the first is named. Koh et al. 2021 (arXiv 2012.07421), as DataComp computes it.

    Args:
        metric: Such as `acc1`; `worst_group_acc1` and `mean_group_acc1` come out.
        ignored: Groups that cannot be the worst; the mean counts them.
    """
    values, places = np.unique(groups, return_inverse=True)
    counts = np.bincount(places)
    right = np.bincount(places[hits], minlength=len(values))
    shares = np.where(np.isin(values, ignored), np.inf, right / counts)
    worst = int(shares.argmin())
    details = {
        f"groups_{metric}_by_{column}": {
            "values": values.tolist(),
            "samples": counts.tolist(),
            "hits": right.tolist(),
            "ignored": sorted(ignored),
            "worst": int(values[worst]),
        }
    }
    metrics = (
        proportion(f"worst_group_{metric}", int(right[worst]), int(counts[worst])),
        mean_of_proportions(f"mean_group_{metric}", right, counts),
    )
    samples = {f"mean_group_{metric}": PerSample(hits.astype(float).tolist(), places.tolist())}
    return Evaluation(metrics, details, samples)


def _some(values: list[int]) -> str:
    return f"{', '.join(map(str, values[:12]))}{' ...' if len(values) > 12 else ''}"
