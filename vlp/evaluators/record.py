"""Results on paper: records of strict JSON, their lines for the log and their table for people."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlp.ground.files import write_text
from vlp.ground.provenance import commit, versions
from vlp.ground.registry import nearest
from vlp.ground.tabular import aligned, interval
from vlp.ground.types import Evaluation, RecipeError

Record = dict[str, Any]
STEP = re.compile(r"step_([0-9]+)")


def lay_out(evaluation: Evaluation, main_metric: str) -> dict[str, dict[str, float | int | None]]:
    """Lay out metrics by name, the main metric first.

    Raises:
        RecipeError: The evaluator measured no such metric.
    """
    metrics = {metric.name: asdict(metric) for metric in evaluation.metrics}
    if main_metric not in metrics:
        raise RecipeError(f"main_metric '{main_metric}' was not measured{nearest(main_metric, metrics)}")
    names = sorted(metrics, key=lambda name: name != main_metric)
    return {name: {key: metrics[name][key] for key in ("value", "low", "high", "count")} for name in names}


def finish(record: Record, *, texts: Sequence[str], seconds: float) -> Record:
    """Add what a number needs beside it, and check that the record is strict JSON."""
    finished = record | {
        "prompts_sha256": hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest(),
        "versions": versions(),
        "commit": commit(),
        "seconds": round(seconds, 3),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    plain: Record = json.loads(to_json(finished))
    return plain


def to_json(record: Record | list[Record]) -> str:
    """Write strict JSON.

    Raises:
        ValueError: A number is NaN or infinite.
    """
    return json.dumps(record, allow_nan=False, ensure_ascii=True) + "\n"


def write_record(path: Path, record: Record) -> None:
    """Write a record whole or not at all."""
    write_text(path, to_json(record))


def read_record(path: Path) -> Record | None:
    """Return what `write_record` wrote; None where there is nothing, or something else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def evaluated_steps(run: Path) -> dict[int, Path]:
    """Return the folder of each step after which a run was scored, the earliest first, without copies that somebody
    made of them."""
    folder = run / "evaluations"
    steps = {path: STEP.fullmatch(path.name) for path in (folder.iterdir() if folder.is_dir() else ())}
    return dict(sorted((int(name[1]), path) for path, name in steps.items() if name))


def flatten(records: Sequence[Record]) -> dict[str, float]:
    """Return `eval/<task>/<metric>` values of the tasks that succeeded."""
    return {
        f"eval/{record['task']}/{name}": metric["value"]
        for record in records
        for name, metric in record.get("metrics", {}).items()
    }


def headline(record: Record) -> str:
    """Return a task's main metric, or its error, in a few words."""
    if "error" in record:
        return f"{record['task']} FAILED ({record['error']})"
    note = f" (cannot be written: {record['unwritten']})" if "unwritten" in record else ""
    return f"{record['task']} {record['main_metric']} {record['metrics'][record['main_metric']]['value']:.4f}{note}"


def table(records: Sequence[Record]) -> str:
    """Return all metrics of all tasks as aligned columns."""
    rows = [("task", "metric", "value", "95 % interval", "n")]
    for record in records:
        for name, metric in record.get("metrics", {}).items():
            rows.append(
                (
                    record["task"],
                    name,
                    _number(metric["value"]),
                    interval(metric["low"], metric["high"]),
                    str(metric["count"]),
                )
            )
    lines = aligned(rows, right=(2, 4))
    lines += _notes(records)
    failures = [headline(record) for record in records if "error" in record or "unwritten" in record]
    return "\n".join([*(lines if len(rows) > 1 else []), *failures])


def _notes(records: Sequence[Record]) -> list[str]:
    """Say where a number depends on how ties fall, or on who decodes the images."""
    said = []
    for record in records:
        low, high = record.get("details", {}).get("bounds", {}).get(record.get("main_metric"), (0, 0))
        if low != high:
            said.append(
                f"{record['task']}: equal scores: {record['main_metric']} is expected over their orders; it lies "
                f"between {_number(low)} (all against the model) and {_number(high)}"
            )
        if different := record.get("pixels", {}).get("images_that_differ"):
            said.append(
                f"{record['task']}: {different} images are decoded as in training, where others would clip 16 bits or "
                "keep what lies under transparency (--pixels referee)"
            )
    return said


def _number(value: float) -> str:
    return f"{value:.4f}"
