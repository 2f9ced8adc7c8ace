"""A run folder as a report needs it: read once, nothing computed, nothing required but the lock file."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from safetensors import SafetensorError

from vlp.data.order.batch_sizes import BatchSizes
from vlp.evaluators.record import evaluated_steps
from vlp.ground.files import read_records
from vlp.ground.pieces import shapes
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml
from vlp.html.axes import Point
from vlp.run.checkpoint import LOCK, MODEL, candidates

Record = dict[str, Any]


@dataclass(frozen=True)
class RecordedRun:
    """What a run left behind.

    Args:
        settings: The resolved recipe as plain values.
        provenance: Commit, versions and checksums from the lock file.
        lines: Training lines of `metrics.jsonl`, by step.
        evaluations: Records by task, oldest first.
        faults: How many samples were lost to listed faults, by (source, reason).
        num_parameters: Parameters by tower, from the newest checkpoint; empty without one.
    """

    folder: Path
    settings: dict[str, Any]
    provenance: dict[str, Any]
    lines: list[dict[str, Any]]
    evaluations: dict[str, list[Record]]
    faults: Counter[tuple[str, str]]
    num_parameters: dict[str, int]
    date: str

    @property
    def name(self) -> str:
        """The name of the run."""
        return str(self.settings.get("name", self.folder.name))

    @property
    def step(self) -> int:
        """The last step that was logged or evaluated."""
        steps = [line["step"] for line in self.lines] + [r["step"] or 0 for r in self.newest().values()]
        return max(steps, default=0)

    @property
    def num_steps(self) -> int | None:
        """The length of the run in steps; None where it cannot be known without the data."""
        length = self.settings.get("train", {})
        if length.get("steps") is not None:
            return int(length["steps"])
        samples = length.get("samples")
        if samples is None and length.get("epochs") and self.lines and self.lines[-1].get("epoch"):
            samples = length["epochs"] * self.lines[-1]["samples"] / self.lines[-1]["epoch"]
        stages = [(stage["batch_size"], stage["steps"]) for stage in length.get("first_batches", ())]
        return None if samples is None else BatchSizes(length["batch_size"], stages).count(round(samples, 3))

    def curve(self, key: str) -> list[Point]:
        """Return (step, value) of every training line that has the key; a value is None where it was no number."""
        return [(line["step"], line[key]) for line in self.lines if key in line]

    def last(self, key: str) -> float | None:
        """Return the last number logged under a key."""
        numbers = [value for _, value in self.curve(key) if value is not None]
        return numbers[-1] if numbers else None

    def middle(self, key: str) -> float | None:
        """Return the median of the numbers logged under a key."""
        numbers = [value for _, value in self.curve(key) if value is not None]
        return median(numbers) if numbers else None

    def newest(self) -> dict[str, Record]:
        """Return the newest record of each task, failures included."""
        return {task: records[-1] for task, records in self.evaluations.items()}

    def measured(self, task: str) -> list[Record]:
        """Return the records of a task that hold metrics."""
        return [record for record in self.evaluations.get(task, []) if record.get("metrics")]


def read_run(folder: Path) -> RecordedRun:
    """Read a run folder; only the lock file must exist.

    Raises:
        RecipeError: Not a run folder, or a record in it is damaged; names the file.
    """
    lock = folder / LOCK
    if not lock.is_file():
        raise RecipeError(f"{folder}: is no run folder ({LOCK} is missing)")
    settings = read_yaml(lock)
    evaluations = _evaluations(folder)
    lines = _lines(folder / "metrics.jsonl", "step")
    faults = [fault for file in sorted(folder.glob("quarantine*.jsonl")) for fault in _lines(file, "source", "reason")]
    lost: Counter[tuple[str, str]] = Counter()
    for fault in faults:
        lost[fault["source"], fault["reason"]] += fault.get("samples", 1)  # a shard that is gone takes all of its own
    return RecordedRun(
        folder=folder,
        provenance=settings.pop("provenance", {}),
        settings=settings,
        lines=[line for line in lines if not any(key.startswith("eval/") for key in line)],
        evaluations=evaluations,
        faults=lost,
        num_parameters=_num_parameters(folder),
        date=_date(folder, evaluations),
    )


def _lines(path: Path, *keys: str) -> list[dict[str, Any]]:
    """Return the lines of a file that have these keys; others may have been cut when the run was killed."""
    records, _ = read_records(path, lambda record: all(key in record for key in keys))
    return list(records.values())


def _evaluations(run: Path) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for path in (path for step in evaluated_steps(run).values() for path in sorted(step.glob("*.json"))):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault(record["task"], []).append(record)
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(f"{path}: not an evaluation record ({error}); evaluate again or remove it") from error
    return found


def _num_parameters(folder: Path) -> dict[str, int]:
    """Count from the headers of the newest weights; nothing is loaded."""
    for checkpoint in candidates(folder):
        try:
            return _count(checkpoint / f"{MODEL}.safetensors")
        except (OSError, ValueError, SafetensorError):  # damaged
            continue
    return {}


def _count(file: Path) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, shape in shapes(file).items():
        side = next((side for side, part in (("image", ".visual."), ("text", ".text.")) if part in f".{name}"), "")
        counts[side] += math.prod(shape)
    return {"all": sum(counts.values()), "image": counts["image"], "text": counts["text"]}


def _date(folder: Path, evaluations: dict[str, list[Record]]) -> str:
    """Return the day of the newest evaluation, or else of the last metrics."""
    dates = [record["date"] for records in evaluations.values() for record in records if "date" in record]
    if dates:
        return str(max(dates))[:10]
    newest = max(file.stat().st_mtime for file in (folder / LOCK, folder / "metrics.jsonl") if file.exists())
    return datetime.fromtimestamp(newest).date().isoformat()
