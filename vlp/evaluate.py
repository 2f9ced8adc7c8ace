"""Evaluate any model on any tasks: a run, a checkpoint, an export, or what open_clip can load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vlp.evaluators.base import load_task
from vlp.evaluators.dataset import Pixels
from vlp.evaluators.record import table
from vlp.evaluators.tasks import run_tasks
from vlp.ground import dist
from vlp.run.launch import check_same, checksum, join_evaluation
from vlp.run.subject import find_subject
from vlp.towers.encoder import TowerEncoder


def load(name: str, *, device: torch.device | str = "cpu", batch_size: int = 256) -> TowerEncoder:
    """Return an encoder that turns PIL images and strings into embeddings of unit length.

    Args:
        name: Run or checkpoint folder (`RUN:LABEL` for other weights of it), exported folder, `hf-hub:ORG/NAME`, or
            `NAME:TAG` of open_clip.
        device: Where its towers compute.
        batch_size: Images or texts per forward.

    Raises:
        RecipeError: No such model, or it has no weights.
    """
    subject = find_subject(name)
    model = subject.model.to(device)
    return TowerEncoder(model, device=device, batch_size=batch_size, autocast=subject.number_format)


def score(encoder: TowerEncoder, tasks: Sequence[str], *, name: str = "model") -> list[dict[str, Any]]:
    """Score an encoder on tasks; return what `vlp eval` would write, one record per task.

    Args:
        tasks: Names under `eval/`, or YAML files.
        name: What the records call the model.

    Raises:
        RecipeError: No such task.
    """
    opened = [load_task(task) for task in tasks]
    preprocess = encoder.model.preprocess_cfg
    return run_tasks(opened, encoder, model=name, step=None, weights="model", preprocess=preprocess, folder=None)


def evaluate_model(
    name: str, task_names: Sequence[str] | None = None, folder: Path | None = None, *, pixels: Pixels | None = None
) -> int:
    """Evaluate a model, print a table, write one JSON file per task.

    Started by torchrun or `accelerate launch`, the processes share the work.

    Args:
        name: Run or checkpoint folder (`RUN:LABEL` for other weights of it), exported folder, `hf-hub:ORG/NAME`, or
            `NAME:TAG` of open_clip.
        task_names: Names under `eval/` or YAML files; those of the run's recipe, or the shipped ones, when absent.
        pixels: How images become RGB, for all tasks: as in training or as with referees; by default as each task says.
        folder: Where the files go; a run keeps its own by default, other models none.

    Returns:
        Exit status: 0, or 1 if a task failed or its record could not be written.

    Raises:
        RecipeError: No such model or task.
    """
    device = join_evaluation()
    with dist.together():
        wanted = [load_task(task) for task in dict.fromkeys(task_names or ())]  # before gigabytes are read
        subject = find_subject(name)
        _ = subject.model.tokenizer  # refused here, once, where it does not fit the tower
        tasks = wanted or [load_task(task) for task in dict.fromkeys(subject.tasks)]
        if pixels is not None:
            tasks = [replace(task, data=task.data.model_copy(update={"pixels": pixels})) for task in tasks]
    check_same("the model", f"{float(checksum(subject.model.state_dict().values()))} of {subject.name}")
    target = folder or subject.folder
    records = run_tasks(
        tasks,
        TowerEncoder(subject.model.to(device), device=device, autocast=subject.number_format),
        model=subject.name,
        step=subject.step,
        weights=subject.weights,
        preprocess=subject.model.preprocess_cfg,
        folder=target,
        progress=True,
    )
    if dist.is_main():
        print(table(records))
        if target is not None:
            print(f"written to {target}")
    return int(any("error" in record or "unwritten" in record for record in records))
