"""One table of all that was found: for a terminal, a page, a table program or another program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from vlp.evaluators.record import Record
from vlp.ground.tabular import aligned, interval, markdown, write_table

CLEAN, UNTOUCHED = "clean", "as it is"
SIDES = {"": "", "image_to_text_": "I>T ", "text_to_image_": "T>I "}


@dataclass(frozen=True)
class TableRow:
    """One number of a record.

    Args:
        attack: Label of the attack; `clean` before any, `as it is` for tasks that are only evaluated.
        radius: With its unit, or nothing.
        is_main: Whether it is the number to quote.
    """

    task: str
    attack: str
    radius: str
    metric: str
    value: float
    low: float | None
    high: float | None
    count: int
    is_main: bool


def rows_of(record: Record) -> list[TableRow]:
    """Return every number of a record, the main one of each attack first."""
    return [row for task in record["tasks"] for row in _rows_of_task(task)]


def _rows_of_task(task: Record) -> Iterator[TableRow]:
    if "error" in task:
        return
    if "attacks" not in task:
        yield from _rows(task, UNTOUCHED, "", task["metrics"])
        return
    yield from _rows(task, CLEAN, "", task["clean"])
    for entry in (*task["attacks"], *task["worst"]):
        if not entry.get("is_probe"):
            yield from _rows(task, entry["label"], f"{entry['radius']:g}{entry['unit']}", entry["metrics"])


def _rows(task: Record, attack: str, radius: str, metrics: Mapping[str, Mapping[str, float]]) -> Iterator[TableRow]:
    for name, metric in metrics.items():
        numbers = (metric["value"], metric["low"], metric["high"], int(metric["count"]))
        yield TableRow(task["task"], attack, radius, name, *numbers, name == task["main_metric"])


def as_text(record: Record, rows: Sequence[TableRow]) -> str:
    """Return the main numbers as aligned columns, and below them what failed."""
    lines = aligned(_shown(rows), right=(4, 6)) if rows else []
    return "\n".join([*lines, *_failures(record), verdict(record)])


def as_markdown(record: Record, rows: Sequence[TableRow]) -> str:
    """Return the main numbers as a table of Markdown, and below it what failed."""
    table = markdown(_shown(rows), right=(4, 6)) if rows else ""
    return "\n\n".join([table, *_failures(record), verdict(record)]) + "\n"


def as_csv(_record: Record, rows: Sequence[TableRow]) -> str:
    """Return all numbers with all digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([field.name for field in fields(TableRow)])
    writer.writerows(map(astuple, rows))
    return file.getvalue()


def as_json(record: Record, rows: Sequence[TableRow]) -> str:
    """Return all numbers with all digits, and the gates."""
    gates = {task["task"]: task.get("gates", []) for task in record["tasks"]}
    found = {"is_believable": record["is_believable"], "gates": gates, "rows": [asdict(row) for row in rows]}
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def verdict(record: Record) -> str:
    """Say whether the numbers can be believed."""
    asked = [gate for task in record["tasks"] for gate in task.get("gates", ())]
    failed = sum(not gate["is_passed"] for gate in asked)
    if failed:
        return f"{failed} of {len(asked)} gates failed: these numbers say nothing about robustness"
    return f"all {len(asked)} gates passed" if asked else "no gate could be asked"


def _failures(record: Record) -> list[str]:
    return [
        *(f"{task['task']} FAILED ({task['error']})" for task in record["tasks"] if "error" in task),
        *(
            f"{task['task']}: gate {gate['name']} FAILED: {gate['said']}"
            for task in record["tasks"]
            for gate in task.get("gates", ())
            if not gate["is_passed"]
        ),
    ]


def _shown(rows: Sequence[TableRow]) -> list[tuple[str, ...]]:
    """Return one line for each attack: the main number, and what the attack took."""
    head = ("task", "attack", "radius", "metric", "value", "95 % interval", "n", "success")
    lines: list[tuple[str, ...]] = [head]
    for row in rows:
        if row.is_main:
            numbers = (f"{row.value:.4f}", interval(row.low, row.high), f"{row.count}")
            lines.append((row.task, row.attack, row.radius, row.metric, *numbers, _taken(row, rows)))
    return lines


def _taken(main: TableRow, rows: Sequence[TableRow]) -> str:
    """Return attack success rates at each k, by direction."""
    found: dict[str, list[str]] = {}
    for row in rows:
        direction, success, k = row.metric.rpartition("success@")
        if success and (row.task, row.attack, row.radius) == (main.task, main.attack, main.radius):
            found.setdefault(SIDES[direction], []).append(f"{row.value:.2f} at {k}")
    return "; ".join(f"{side}{', '.join(rates)}" for side, rates in found.items())


def write_rows(path: Path, record: Record, rows: Sequence[TableRow]) -> None:
    """Write the table; its suffix says how: `.md`, `.csv` or `.json`.

    Raises:
        RecipeError: Another suffix, or the file cannot be written.
    """
    write_table(path, WRITERS, record, rows)


WRITERS: Mapping[str, Callable[[Record, Sequence[TableRow]], str]] = {
    ".md": as_markdown,
    ".csv": as_csv,
    ".json": as_json,
}
