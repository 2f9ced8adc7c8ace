"""What an evaluator is, what a task is, and how tasks run: the same way in training and offline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from vlp import dist
from vlp.evaluators.dataset import DataSource, EvaluationSet
from vlp.evaluators.record import Record, finish, lay_out, write_record
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.together import together
from vlp.explain import explain
from vlp.registry import Registry, settings_of
from vlp.types import Encoder, Evaluation, RecipeError

Model = TypeVar("Model", bound=BaseModel)


class Evaluator(Protocol):
    """Score a model on one evaluation set.

    The positional argument of the class is the opened set; its keyword-only arguments are the `settings` of a task.
    `run` is called by all processes and must ask for the same embeddings on each of them.

    Args:
        texts: Every text the evaluator embeds, in order; their hash goes into the record.
    """

    texts: tuple[str, ...]

    def run(self, encoder: SharedEncoder) -> Evaluation: ...


evaluators: Registry[Evaluator] = Registry("evaluator", "vlp.evaluators")


def check_kind(data: EvaluationSet, kind: str) -> None:
    """Raise RecipeError unless a set is of a kind."""
    if data.kind != kind:
        raise RecipeError(f"{data.root} is a {data.kind} set (dataset_type.txt), the evaluator needs {kind}")


class TaskFile(BaseModel):
    """The keys of `eval/<task>.yaml`; `settings` are the keyword-only arguments of the evaluator.

    Args:
        version: Raised whenever numbers of this task stop being comparable.
        evaluator: Registered name.
        main_metric: The number to quote.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    evaluator: str
    main_metric: str
    data: DataSource
    settings: dict[str, object] = {}


@dataclass(frozen=True)
class Task:
    """A checked task.

    Args:
        settings: Instance of the settings model of the evaluator.
    """

    name: str
    version: int
    evaluator: str
    main_metric: str
    data: DataSource
    settings: BaseModel

    @classmethod
    def from_mapping(cls, name: str, mapping: Mapping[str, Any], where: str) -> Task:
        """Check a parsed YAML mapping.

        Args:
            where: The file, for messages.

        Raises:
            RecipeError: An unknown, missing or wrong key; names it.
        """
        file = _validated(TaskFile, mapping, where)
        try:
            schema = settings_of(evaluators[file.evaluator])
        except RecipeError as error:
            raise RecipeError(f"{where}: evaluator: {error}") from error
        settings = _validated(schema, file.settings, f"{where}: settings")
        return cls(name, file.version, file.evaluator, file.main_metric, file.data, settings)

    def open(self, encoder: SharedEncoder) -> Evaluator:
        """Open the data, complete or refused, and create the evaluator.

        Raises:
            RecipeError: The data are incomplete or of another kind.
        """
        data = encoder.open(self.data)
        with together():
            return evaluators.build(self.evaluator, dict(self.settings), data)


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
    with together():
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
        records.append(dist.broadcast_object(record))
        if folder is not None and dist.is_main():
            write_record(folder / f"{task.name}.json", record)
    return records


def _validated(model: type[Model], mapping: Mapping[str, Any], where: str) -> Model:
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        raise RecipeError(explain(error, model, [(where, mapping)])) from error
