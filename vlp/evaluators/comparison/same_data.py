"""Whether records may be compared: what must be equal, and what is worth saying where it is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlp.evaluators.comparison.score_folders import ScoredRun
from vlp.evaluators.per_sample import MetricSamples
from vlp.evaluators.record import Record
from vlp.ground.types import RecipeError

MUST_BE_EQUAL = {
    "data_sha256": "scored on other data",
    "version": "another version of the task",
    "evaluator": "another evaluator",
    "main_metric": "another main metric",
}
WORTH_SAYING = {
    "settings": "other settings",
    "prompts_sha256": "other prompts or captions",
    "pixels": "other pixels",
    "versions": "other libraries",
    "commit": "other commits of vlp",
}


def check_same_data(task: str, runs: Sequence[ScoredRun]) -> None:
    """Raise RecipeError where the records of a task cannot be compared; names what differs and where."""
    for key, said in MUST_BE_EQUAL.items():
        for run in runs[1:]:
            if run.records[task].get(key) != runs[0].records[task].get(key):
                raise RecipeError(f"{said} ({key} of {runs[0].folder} and of {run.folder})")
    for run in runs[1:]:
        if _learned_from(run.records[task]) != _learned_from(runs[0].records[task]):
            raise RecipeError(f"a probe learned from other data (learned_from of {runs[0].folder} and of {run.folder})")


def _learned_from(record: Record) -> object:
    """Return the checksums of what a probe learned from; nothing where nobody learned."""
    return [part.get("sha256") for part in record.get("details", {}).get("learned_from") or ()]


def what_differs(task: str, runs: Sequence[ScoredRun]) -> list[str]:
    """Return what a reader of a comparison should know of a task, without the name of the task."""
    return [
        f"{said} ({detail})"
        for key, said in WORTH_SAYING.items()
        if (detail := _detail(key, [run.records[task].get(key) for run in runs]))
    ]


def check_same_samples(tables: Sequence[MetricSamples], runs: Sequence[ScoredRun]) -> None:
    """Raise RecipeError unless tables are of the same samples, in the same order and the same groups."""
    groups = [np.zeros(0) if table.groups is None else table.groups for table in tables]
    for table, group, run in zip(tables, groups, runs, strict=True):
        where = f"({len(tables[0].keys)} in {runs[0].folder}, {len(table.keys)} in {run.folder})"
        if not np.array_equal(table.keys, tables[0].keys):
            raise RecipeError(f"scored on other samples {where}")
        if not np.array_equal(group, groups[0]):
            raise RecipeError(f"scored on other groups of samples {where}")


def _detail(key: str, values: list[object]) -> str:
    """Say what of a key differs; nothing where it is equal."""
    if key == "pixels":
        values = [value.get("as") if isinstance(value, dict) else value for value in values]
    if all(value == values[0] for value in values):
        return ""
    if key == "versions":
        tables = [value if isinstance(value, dict) else {} for value in values]
        names = sorted({name for table in tables for name in table})
        found = {name: _listed([table.get(name, "?") for table in tables]) for name in names}
        return ", ".join(f"{name} {each}" for name, each in found.items() if " and " in each)
    return key if key in ("settings", "prompts_sha256") else _listed(values)


def _listed(values: Sequence[object]) -> str:
    return " and ".join(dict.fromkeys(map(str, values)))
