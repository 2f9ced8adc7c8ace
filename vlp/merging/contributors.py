"""The models that are put together: opened one at a time, and known by the checksum of their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlp.export.run import describe_data, find_origins
from vlp.ground.types import RecipeError
from vlp.run.checkpoint import is_checkpoint, read_lock
from vlp.run.subject import find_subject
from vlp.run.trained_model import is_run, split_label
from vlp.towers.dual import DualEncoder


@dataclass(frozen=True)
class Contributor:
    """What is told of a model once it is no longer in memory.

    Args:
        name: As the user called it; of a run also which weights of which step.
        sha256: Of its weights, whatever file they were read from.
        data: What it was trained on, in Markdown; empty where nobody knows.
        origins: What it was started from, a line each.
    """

    name: str
    sha256: str
    data: str = ""
    origins: tuple[str, ...] = ()


def open_contributor(name: str) -> tuple[Contributor, DualEncoder]:
    """Load a model by name, as `vlp eval` takes it.

    Raises:
        RecipeError: No such model, or its weights are not those of two towers.
    """
    subject = find_subject(name)
    model = subject.model
    if subject.width is not None:
        raise RecipeError(f"'{name}' is the first {subject.width} coordinates of a model: name the model itself")
    if subject.head is not None:
        raise RecipeError(f"'{name}' is a model behind a head, which is not averaged: name the model itself")
    if not isinstance(model, DualEncoder):
        raise RecipeError(
            f"'{name}' is a {type(model).__name__}, which computes with code of another library: only models that "
            "open_clip's towers can express are merged"
        )
    run = run_of(name)
    if run is None:
        return Contributor(name, sha256_of_weights(model.state_dict())), model
    whole = f"{name} ({subject.weights}, step {subject.step})"
    data, origins = describe_data(read_lock(run)), tuple(find_origins(run))
    return Contributor(whole, sha256_of_weights(model.state_dict()), data, origins), model


def run_of(name: str) -> Path | None:
    """Return the folder of the run that a name such as `RUN:LABEL` or a checkpoint folder belongs to, if any."""
    path, _ = split_label(name)
    return (path.parent.parent if is_checkpoint(path) else path) if is_run(path) else None


def sha256_of_weights(weights: Mapping[str, Tensor]) -> str:
    """Return one checksum over names, shapes and every bit: the same for a checkpoint and for its export."""
    total = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def data_of(contributors: Iterable[Contributor]) -> str:
    """Return what all of them were trained on, each line once."""
    return "\n".join(dict.fromkeys(line for contributor in contributors for line in contributor.data.splitlines()))


def origins_of(contributors: Iterable[Contributor]) -> list[str]:
    """Return what all of them were started from, each line once."""
    return list(dict.fromkeys(line for contributor in contributors for line in contributor.origins))
