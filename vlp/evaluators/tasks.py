"""Run tasks: the same way in training, on a checkpoint, and on any other model."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlp.evaluators.base import Task
from vlp.evaluators.earlier_records import files_beside, shards_tag, task_sha256
from vlp.evaluators.pace import Pace
from vlp.evaluators.per_sample import lay_out_samples, write_samples
from vlp.evaluators.record import Record, finish, headline, lay_out, write_record
from vlp.evaluators.shared import SharedEncoder
from vlp.ground import dist
from vlp.ground.float32 import whole_float32
from vlp.ground.types import Encoder, RecipeError


def run_task(
    task: Task,
    encoder: Encoder | SharedEncoder,
    *,
    model: str,
    step: int | None = None,
    weights: str = "model",
    preprocess: Mapping[str, Any] | None = None,
    model_checksum: float | None = None,
    configuration: str | None = None,
    moved: Mapping[str, float] | None = None,
    folder: Path | None = None,
) -> Record:
    """Evaluate a model on a task, on all processes together, and return the record, equal on each of them.

    Args:
        encoder: A SharedEncoder keeps embeddings for the next task.
        model: What to call the model in the record.
        step: Training step of the weights, if they have one.
        weights: Label of the weights, such as `model`.
        preprocess: How the model's images are prepared, for the record.
        model_checksum: A number that depends on every weight, for the record.
        configuration: A word that changes with what the weights are used as, for the record.
        moved: How far each adapted tower has gone from its start, for the record.
        folder: Where the main process writes what each sample adds to the metrics.

    Raises:
        RecipeError: The data are incomplete or the model's embeddings unusable.
    """
    shared = encoder if isinstance(encoder, SharedEncoder) else SharedEncoder(encoder)
    start = time.perf_counter()
    evaluator = task.open(shared)
    with whole_float32():
        evaluation = evaluator.run(shared)
    data = shared.open(task.data)
    with dist.together():
        record = finish(
            {
                "task": task.name,
                "version": task.version,
                "evaluator": task.evaluator,
                "main_metric": task.main_metric,
                "task_sha256": task_sha256(task),
                "settings": task.settings.model_dump(mode="json"),
                "model": model,
                "step": step,
                "weights": weights,
                "model_checksum": model_checksum,
                **({"configuration": configuration} if configuration else {}),
                **({"moved": dict(moved)} if moved else {}),
                "metrics": lay_out(evaluation, task.main_metric),
                "details": evaluation.details,
                "data_sha256": data.fingerprint,
                "files": files_beside(task),
                **({"shards": shards} if (shards := shards_tag(task)) else {}),
                "data_changes": {name: change.model_dump(mode="json") for name, change in data.changes().items()},
                "pixels": {"as": task.data.pixels, "images_that_differ": shared.num_different(data)},
                "preprocess": None if preprocess is None else dict(preprocess),
            },
            texts=evaluator.texts,
            seconds=time.perf_counter() - start,
        )
        samples = lay_out_samples(evaluation.samples, data)
    record = dist.broadcast_object(record)
    if folder is not None:
        record |= dist.on_main(partial(_keep, partial(write_samples, folder / task.name, samples), folder))
    return record


def run_tasks(
    tasks: Sequence[Task],
    encoder: Encoder,
    *,
    folder: Path | None = None,
    progress: bool = False,
    done: Mapping[str, Record] | None = None,
    **model: Any,
) -> list[Record]:
    """Run tasks one after the other; one that fails leaves a record with its `error` and does not stop the others.

    Nor does a file that cannot be written: its record says so as `unwritten`. Tasks on one set of images follow each
    other, so that its embeddings can go when the last of them is done; records come in the order of the tasks.

    Args:
        folder: Where the main process writes one JSON file per task, and one table of what each sample adds.
        progress: Show bars and a line per task on the main process.
        done: Records of earlier starts by the name of the task, which are taken as they are.
        model: What `run_task` wants to know of the model.
    """
    shared = SharedEncoder(encoder, progress=progress)
    found: dict[str, Record] = dict(done or {})
    left = by_set([task for task in tasks if task.name not in found])
    pace = Pace([task.data.samples for task in left], num_done=len(tasks) - len(left))
    for place, task in enumerate(left):
        try:
            record = run_task(task, shared, folder=folder, **model)
        except Exception as error:
            record = {"task": task.name, "version": task.version, "evaluator": task.evaluator, "model": model["model"]}
            record |= {"step": model.get("step"), "weights": model.get("weights", "model")}
            record["error"] = f"{type(error).__name__}: {error}"
        found[task.name] = record = dist.broadcast_object(record)
        if folder is not None:
            path = folder / f"{task.name}.json"
            record |= dist.on_main(partial(_keep, partial(write_record, path, record), path))
        shared.keep_sets(other.data for other in left[place + 1 :])
        if progress and dist.is_main():
            tqdm.write(f"{pace.after(task.data.samples)}: {headline(record)}", file=sys.stderr)
    return [found[task.name] for task in tasks]


def check_names(tasks: Sequence[Task]) -> None:
    """Refuse two tasks of one name, by which records, files and tables know them: one would stand for both.

    Raises:
        RecipeError: Two files have it.
    """
    known: dict[str, Task] = {}
    for task in tasks:
        if known.setdefault(task.name, task) != task:
            raise RecipeError(
                f"two tasks are called '{task.name}', and the record of one would replace that of the other: rename "
                "one of the files"
            )


def by_set(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks in their order, but those on one set together."""
    first: dict[str, int] = {}
    for place, task in enumerate(tasks):
        first.setdefault(task.data.root, place)
    return sorted(tasks, key=lambda task: first[task.data.root])


def _keep(write: Callable[[], None], path: Path) -> Record:
    try:
        write()
    except OSError as error:
        return {"unwritten": f"{path}: {error}"}
    return {}
