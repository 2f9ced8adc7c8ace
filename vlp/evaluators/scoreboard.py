"""One row per task and model: what people quote, for the terminal, a paper, a table program or another program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from vlp.evaluators.base import Task
from vlp.evaluators.record import Record
from vlp.evaluators.suites import Suite
from vlp.ground.tabular import aligned, interval, markdown, write_table

COLUMNS = ("model", "task", "metric", "value", "low", "high", "n", "guessing")


@dataclass(frozen=True)
class MainScore:
    """The main metric of a task, or the mean of a suite; its fields stand in the order of COLUMNS.

    Args:
        metric: Its name; for a mean, what it is the mean of.
        low: Lower end of the 95 % interval, where there is one.
        high: Its upper end.
        count: Samples, or tasks of a mean.
        guessing: What a model that guesses would score, where the task says so.
        error: Why there is no value.
    """

    model: str
    task: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    count: int | None = None
    guessing: float | None = None
    error: str = ""


def scores_of(records: Sequence[Record], tasks: Sequence[Task], suites: Sequence[Suite] = ()) -> list[MainScore]:
    """Return the main metric of each record of one model, and the means of the suites that were asked for.

    A suite of which a task failed has no mean: one over fewer tasks would be another number.
    """
    guesses = {task.name: task.random for task in tasks}
    scores = [_score(record, guesses.get(record["task"])) for record in records]
    values = {score.task: score.value for score in scores if score.value is not None}
    model = records[0]["model"] if records else ""
    for suite in suites:
        for name, value in suite.averages(values).items():
            group = suite.groups.get(name)
            what = f"mean of {len(group or suite.tasks)} tasks"
            scores.append(MainScore(model, f"{suite.name}: {name}", what, value, count=len(group or suite.tasks)))
        if missing := [task for task in suite.tasks if task not in values]:
            error = f"no mean: {', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} missing"
            scores.append(MainScore(model, suite.name, "", None, error=error))
    return scores


def _score(record: Record, guessing: float | None) -> MainScore:
    if "error" in record:
        return MainScore(record["model"], record["task"], "", None, error=record["error"])
    name = record["main_metric"]
    metric = record["metrics"][name]
    ends = metric["low"], metric["high"]
    return MainScore(record["model"], record["task"], name, metric["value"], *ends, metric["count"], guessing)


def write_scores(path: Path, scores: Sequence[MainScore]) -> None:
    """Write a table; its suffix says how: `.md`, `.csv` or `.json`.

    Raises:
        RecipeError: Another suffix, or the file cannot be written.
    """
    write_table(path, WRITERS, scores)


def as_text(scores: Sequence[MainScore]) -> str:
    """Return aligned columns for the terminal."""
    several = len({score.model for score in scores}) > 1
    head = (*(("model",) if several else ()), "task", "metric", "value", "95 % interval", "n", "guessing")
    rows = [head]
    for score in scores:
        said = (_number(score.value), interval(score.low, score.high), _count(score.count), _number(score.guessing))
        rows.append((*((score.model,) if several else ()), score.task, score.metric, *said))
    lines = aligned(rows, right=[head.index(name) for name in ("value", "n", "guessing")])
    return "\n".join([*lines, *(f"{score.task} FAILED ({score.error})" for score in scores if score.error)])


def as_markdown(scores: Sequence[MainScore]) -> str:
    """Return a table for a page."""
    rows = [COLUMNS]
    for score in scores:
        numbers = (_number(score.value), _number(score.low), _number(score.high), _count(score.count))
        rows.append((score.model, score.task, score.metric or score.error, *numbers, _number(score.guessing)))
    return markdown(rows, right=range(3, len(COLUMNS))) + "\n"


def as_csv(scores: Sequence[MainScore]) -> str:
    """Return rows with all digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow((*COLUMNS, "error"))
    writer.writerows(map(astuple, scores))
    return file.getvalue()


def as_json(scores: Sequence[MainScore]) -> str:
    """Return a list of mappings with all digits."""
    rows = [dict(zip((*COLUMNS, "error"), astuple(score), strict=True)) for score in scores]
    return json.dumps(rows, indent=1, allow_nan=False) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


WRITERS: Mapping[str, Callable[[Sequence[MainScore]], str]] = {".md": as_markdown, ".csv": as_csv, ".json": as_json}
