"""Run tasks: the same way in training, on a checkpoint, and on any other model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vlp.evaluators.base import Task
from vlp.evaluators.record import Record, finish, lay_out, write_record
from vlp.evaluators.shared import SharedEncoder
from vlp.ground import dist
from vlp.ground.types import Encoder


def run_task(
    task: Task,
    encoder: Encoder | SharedEncoder,
    *,
    model: str,
    step: int | None = None,
    weights: str = "model",
    preprocess: Mapping[str, Any] | None = None,
) -> Record:
    """Evaluate a model on a task, on all processes together, and return the record, equal on each of them.

    Args:
        encoder: A SharedEncoder keeps embeddings for the next task.
        model: What to call the model in the record.
        step: Training step of the weights, if they have one.
        weights: Label of the weights, such as `model`.
        preprocess: How the model's images are prepared, for the record.

    Raises:
        RecipeError: The data are incomplete or the model's embeddings unusable.
    """
    shared = encoder if isinstance(encoder, SharedEncoder) else SharedEncoder(encoder)
    start = time.perf_counter()
    evaluator = task.open(shared)
    evaluation = evaluator.run(shared)
    with dist.together():
        record = finish(
            {
                "task": task.name,
                "version": task.version,
                "evaluator": task.evaluator,
                "main_metric": task.main_metric,
                "settings": task.settings.model_dump(mode="json"),
                "model": model,
                "step": step,
                "weights": weights,
                "metrics": lay_out(evaluation, task.main_metric),
                "details": evaluation.details,
                "data_sha256": shared.open(task.data).sha256,
                "pixels": {
                    "as": task.data.pixels,
                    "images_that_differ": shared.num_different(shared.open(task.data)),
                },
                "preprocess": None if preprocess is None else dict(preprocess),
            },
            texts=evaluator.texts,
            seconds=time.perf_counter() - start,
        )
    return dist.broadcast_object(record)


def run_tasks(
    tasks: Sequence[Task],
    encoder: Encoder,
    *,
    model: str,
    step: int | None = None,
    weights: str = "model",
    preprocess: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> list[Record]:
    """Run tasks one after the other; one that fails leaves a record with its `error` and does not stop the others.

    Nor does a file that cannot be written: its record says so as `unwritten`.

    Args:
        folder: Where the main process writes one JSON file per task.
        progress: Show bars on the main process.
    """
    shared = SharedEncoder(encoder, progress=progress)
    records = []
    for task in tasks:
        try:
            record = run_task(task, shared, model=model, step=step, weights=weights, preprocess=preprocess)
        except Exception as error:
            record = {"task": task.name, "version": task.version, "evaluator": task.evaluator, "model": model}
            record |= {"step": step, "weights": weights, "error": f"{type(error).__name__}: {error}"}
        record = dist.broadcast_object(record)
        records.append(record)
        if folder is not None:
            record |= dist.on_main(partial(_keep, folder / f"{task.name}.json", record))
    return records


def _keep(path: Path, record: Record) -> Record:
    try:
        write_record(path, record)
    except OSError as error:
        return {"unwritten": f"{path}: {error}"}
    return {}
