"""Compare models task by task and over a suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from vlp.evaluators.comparison import bootstrap
from vlp.evaluators.comparison.bootstrap import Array, Difference
from vlp.evaluators.comparison.same_data import check_same_data, what_differs
from vlp.evaluators.comparison.score_folders import Contestant, ScoredRun
from vlp.evaluators.comparison.task_scores import Pair, TaskScores, difference_of, random_of, score_task
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError

LEVEL = 0.05
SUITE = "mean"


@dataclass(frozen=True)
class PairRow:
    """One comparison of two models.

    Args:
        task: Its name; `mean` for the mean over tasks.
        pair: Places of the models among those compared.
        values: What the two scored.
        count: Samples; for the mean, tasks.
        difference: How much higher the second scored; None where a record has no interval.
        test: Where p comes from.
        sign: 1 where higher is better, -1 where lower is, 0 where neither is.
        corrected_p: By Holm's method for all comparisons of the table.
    """

    task: str
    metric: str
    pair: Pair
    values: tuple[float, float]
    count: int
    difference: Difference | None
    test: str
    sign: int = 1
    corrected_p: float | None = None

    @property
    def is_distinguishable(self) -> bool:
        return self.corrected_p is not None and self.corrected_p <= LEVEL

    @property
    def better(self) -> int | None:
        """Place of the model that is better; None where that cannot be told."""
        first, second = self.values
        if not self.is_distinguishable or not self.sign or first == second:
            return None
        return self.pair[int((second > first) == (self.sign > 0))]


@dataclass(frozen=True)
class Comparison:
    """All comparisons of some models.

    Args:
        rows: Task by task, each pair of models; then the mean over tasks.
        refused: Why tasks could not be compared, by name.
        notes: What a reader should know, a line each.
    """

    models: tuple[Contestant, ...]
    rows: tuple[PairRow, ...]
    refused: dict[str, str]
    notes: tuple[str, ...]

    @property
    def num_compared(self) -> int:
        """Return how many p values were corrected for each other."""
        return sum(row.difference is not None for row in self.rows)


def compare(models: Sequence[Contestant], tasks: Sequence[str] | None = None) -> Comparison:
    """Compare each pair of models on each task that all of them were scored on, and on the mean over these tasks.

    Args:
        models: Two or more.
        tasks: Which tasks; all that there are when absent.

    Raises:
        RecipeError: Nothing can be compared; says why.
    """
    if len(models) < 2:
        raise RecipeError("a comparison needs two models or more; name another folder of records")
    runs = [run for model in models for run in model.runs]
    names, notes = _shared_tasks(runs, tasks)
    scores: list[TaskScores] = []
    refused: dict[str, str] = {}
    said: dict[str, list[str]] = {}
    for task in names:
        try:
            check_same_data(task, runs)
            scored, unpaired = score_task(task, models)
        except RecipeError as error:
            refused[task] = str(error)
            continue
        scores.append(scored)
        for note in (*what_differs(task, runs), *([unpaired] if unpaired else [])):
            said.setdefault(note, []).append(task)
    if not scores:
        reasons = [*notes, *(f"{task}: {reason}" for task, reason in refused.items())]
        raise RecipeError(f"nothing to compare: {'; '.join(reasons)}")
    notes += [f"{note}: {', '.join(where)}" for note, where in said.items()]
    weights = [bootstrap.seed_weights(len(model.runs), random_of("seeds", place)) for place, model in enumerate(models)]
    pairs = list(combinations(range(len(models)), 2))
    rows = [_row(scored, pair, weights) for scored in scores for pair in pairs]
    return Comparison(tuple(models), _corrected([*rows, *_suite(scores, pairs, weights)]), refused, tuple(notes))


def _shared_tasks(runs: Sequence[ScoredRun], wanted: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the tasks that every run was scored on, and a note on each that only some were."""
    known = list(dict.fromkeys(task for run in runs for task in run.records))
    for task in wanted or ():
        if task not in known:
            raise RecipeError(f"no record of task '{task}'{nearest(task, known)} (there are: {', '.join(known)})")
    names, notes = [], []
    for task in dict.fromkeys(wanted or known):
        lacking = [str(run.folder) for run in runs if "metrics" not in run.records.get(task, {})]
        if lacking:
            notes.append(f"{task}: left out, not scored in {', '.join(lacking)}")
        else:
            names.append(task)
    return names, notes


def _row(scored: TaskScores, pair: Pair, weights: Sequence[Array]) -> PairRow:
    found, test = scored.test(pair, weights)
    return PairRow(
        scored.task, scored.metric, pair, _means(scored.values, pair), scored.count, found, test, scored.sign
    )


def _suite(scores: Sequence[TaskScores], pairs: Sequence[Pair], weights: Sequence[Array]) -> list[PairRow]:
    """Compare the mean over all tasks that have draws and in which higher is better; seeds are drawn once for all."""
    scored = [each for each in scores if each.draws is not None and each.sign > 0]
    if len(scored) < 2:
        return []
    places = range(len(weights))
    values = [np.mean([each.values[place] for each in scored], axis=0) for place in places]
    draws = [np.mean([each.draws[place] for each in scored if each.draws], axis=0) for place in places]
    test = "paired bootstrap" if all(each.samples for each in scored) else "partly unpaired"
    rows = []
    for pair in pairs:
        least = bootstrap.least_p(sum(each.num_differing(pair) for each in scored))
        found = difference_of(pair, values, draws, weights, random_of(SUITE, *pair), least)
        rows.append(PairRow(SUITE, f"{len(scored)} tasks", pair, _means(values, pair), len(scored), found, test))
    return rows


def _means(values: Sequence[Array], pair: Pair) -> tuple[float, float]:
    return float(values[pair[0]].mean()), float(values[pair[1]].mean())


def _corrected(rows: Sequence[PairRow]) -> tuple[PairRow, ...]:
    left = iter(bootstrap.holm([row.difference.p for row in rows if row.difference is not None]))
    return tuple(row if row.difference is None else replace(row, corrected_p=next(left)) for row in rows)
