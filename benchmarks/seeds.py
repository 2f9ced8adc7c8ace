"""Runs of several seeds as one row of a table, and as one side of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.tables import Table
from vlp.evaluators.comparison import compare_folders
from vlp.evaluators.comparison.side_by_side import as_markdown
from vlp.run.checkpoint import latest
from vlp.run.folder import evaluations_of
from vlp.run.trained_model import is_run


def newest(run: Path) -> Path:
    """Return the records of a run's last step, or a folder of records as it is."""
    found = latest(run) if is_run(run) else None
    return run if found is None else evaluations_of(run, found.step)


def compared(ours: Sequence[Path], theirs: Sequence[Path]) -> str:
    """Return what is more than chance between the seeds of two ways, as Markdown."""
    sides = [",".join(str(newest(run)) for run in runs) for runs in (ours, theirs)]
    return as_markdown(compare_folders(sides))


def table_of(ways: Mapping[str, Sequence[Path]], tasks: Sequence[str]) -> Table:
    """Return the main metric of each task in percent, its mean over the seeds, a row for each way."""
    rows = [["way", *tasks]]
    for way, runs in ways.items():
        rows.append([way, *(f"{mean_score(runs, task):.1f}" for task in tasks)])
    return rows


def mean_score(runs: Sequence[Path], task: str) -> float:
    """Return the main metric of a task in percent, its mean over runs."""
    return 100 * mean_metric(runs, task)


def mean_metric(runs: Sequence[Path], task: str, metric: str | None = None) -> float:
    """Return the mean over runs of a metric of a task; None takes the main one."""
    return fmean(_value_of(newest(run), task, metric) for run in runs)


def _value_of(folder: Path, task: str, metric: str | None) -> float:
    record = json.loads((folder / f"{task}.json").read_text(encoding="utf-8"))
    return float(record["metrics"][metric or record["main_metric"]]["value"])
