"""Score weights on tasks while something is chosen by their scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vlp.evaluators.base import Task
from vlp.evaluators.comparison.score_folders import value_of
from vlp.evaluators.comparison.task_scores import sign_of
from vlp.evaluators.earlier_records import finished
from vlp.evaluators.record import Record
from vlp.evaluators.tasks import run_tasks
from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.run.launch import check_same, checksum
from vlp.towers.dual import DualEncoder
from vlp.towers.encoder import TowerEncoder


def score(
    model: DualEncoder, tasks: Sequence[Task], name: str, device: torch.device, folder: Path | None = None
) -> list[Record]:
    """Return the records of a model, in float32, as its export will be scored; on all processes together.

    Args:
        name: What the records call it.
        folder: Where the records are kept; those of the same weights and tasks that are there are taken as they are.

    Raises:
        RecipeError: A task failed, or its record could not be written.
    """
    told = float(checksum(model.state_dict().values()))
    check_same("the model", f"{told} of {name}")
    done = {} if folder is None else dist.on_main(partial(finished, tasks, folder, told))
    records = run_tasks(
        tasks,
        TowerEncoder(model.to(device), device=device),
        model=name,
        preprocess=model.preprocess_cfg,
        model_checksum=told,
        folder=folder,
        progress=True,
        done=done,
    )
    for record in records:
        if trouble := record.get("error") or record.get("unwritten"):
            raise RecipeError(f"{record['task']}: cannot be scored for {name}: {trouble}")
    return records


def can_choose(task: Task) -> bool:
    """Whether more of its main metric is better."""
    return sign_of(task.evaluator, task.main_metric) > 0


def check_choosing(task: Task) -> None:
    """Refuse a task by whose main metric nothing can be chosen.

    Raises:
        RecipeError: More of it is not better.
    """
    if not can_choose(task):
        raise RecipeError(
            f"{task.name}: nothing can be chosen by {task.main_metric}, of which more is not better: name another task"
        )


def mean_score(records: Sequence[Record]) -> float:
    """Return the mean of the main metrics."""
    return float(np.mean([value_of(record) for record in records]))
