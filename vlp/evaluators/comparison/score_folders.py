"""Folders of records as models to compare: one folder per training seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlp.evaluators.per_sample import MetricSamples, read_samples
from vlp.evaluators.record import Record, evaluated_steps
from vlp.ground.types import RecipeError

OF_A_RUN = "checkpoints"  # a folder that no records have
TOLERANCE = 1e-6  # evaluators average in float32 and float64


@dataclass(frozen=True)
class ScoredRun:
    """The records of one model in one folder, by task."""

    folder: Path
    records: dict[str, Record]

    def samples(self, task: str) -> MetricSamples | None:
        """Return the main metric of a task sample by sample, if its table holds that.

        Raises:
            RecipeError: The table is damaged, or that of another record.
        """
        record, stem = self.records[task], self.folder / task
        metric = record["main_metric"]
        found = read_samples(stem).get(metric)
        if found is not None and abs(found.metric - value_of(record)) > TOLERANCE:
            raise RecipeError(
                f"{stem}: its table of samples says {metric} {found.metric:.6f}, its record {value_of(record):.6f}; "
                "evaluate again or remove the table"
            )
        return found


@dataclass(frozen=True)
class Contestant:
    """A model to compare: what it is called, and a run for each training seed of it."""

    name: str
    runs: tuple[ScoredRun, ...]


def value_of(record: Record) -> float:
    """Return the main metric of a record."""
    return float(record["metrics"][record["main_metric"]]["value"])


def read_contestants(words: Sequence[str]) -> list[Contestant]:
    """Return models by what a user calls them.

    Args:
        words: Folders of records or runs; several joined by commas are the training seeds of one model.

    Raises:
        RecipeError: There are no records, or a folder stands twice.
    """
    contestants, seen = [], set()
    for word in words:
        parts = [word] if Path(word).exists() else [part for part in word.split(",") if part]
        runs = tuple(read_run(Path(part)) for part in parts)
        for run in runs:
            if (place := run.folder.resolve()) in seen:
                raise RecipeError(f"{run.folder} is to be compared with itself; name other records")
            seen.add(place)
        contestants.append(Contestant(word, runs))
    return contestants


def read_run(path: Path) -> ScoredRun:
    """Return the records of a folder, or those of a run's newest evaluation.

    Raises:
        RecipeError: There are none, one is no record, two are of one task, or they are of several models.
    """
    steps = [*evaluated_steps(path).values()]
    folder = next((step for step in reversed(steps) if any(step.glob("*.json"))), path)
    if not folder.is_dir():
        raise RecipeError(f"there is no folder of records '{path}'; vlp eval MODEL --to FOLDER writes one")
    if folder == path and (path / OF_A_RUN).is_dir():
        raise RecipeError(f"{path}: a run without evaluations; vlp eval {path} writes them")
    files = sorted(folder.glob("*.json"))
    if not files:
        raise RecipeError(f"{folder}: no records in it; vlp eval MODEL --to FOLDER writes them")
    records: dict[str, Record] = {}
    for file in files:
        record = _read(file)
        if record["task"] in records:
            raise RecipeError(f"{file}: a second record of {record['task']} in {folder}: move one of them away")
        records[record["task"]] = record
    scored = [record for record in records.values() if "error" not in record]
    for record in scored[1:]:
        if not _is_of(record, scored[0]):
            raise RecipeError(
                f"{folder}: records of several models: {scored[0]['task']} is of {_model(scored[0])}, {record['task']} "
                f"of {_model(record)}: give each a folder of its own"
            )
    return ScoredRun(folder, records)


def _is_of(record: Record, other: Record) -> bool:
    """Whether two records are of one model: by checksums of its weights, or by its name where one has none."""
    sums = [each.get("model_checksum") for each in (record, other)]
    if None in sums:
        return _model(record) == _model(other)
    return sums[0] == sums[1]


def _model(record: Record) -> str:
    """Return what a record calls its model, which weights of it, and after which step."""
    step = "" if record.get("step") is None else f" at step {record['step']}"
    return f"{record.get('model')} ({record.get('weights', 'model')}{step})"


def _read(file: Path) -> Record:
    try:
        record: Record = json.loads(file.read_text(encoding="utf-8"))
        if "error" not in record:
            value_of(record)
        return {"task": file.stem} | record
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}"
        raise RecipeError(f"{file}: not an evaluation record ({said}); evaluate again or remove it") from error
