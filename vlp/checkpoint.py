"""Checkpoints that are either whole or absent: written beside, synced, renamed; older ones go last."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlp.config import build_model, check_recipe, without_weights
from vlp.layers import read_layers
from vlp.provenance import versions
from vlp.recipe import Recipe
from vlp.towers.dual import DualEncoder
from vlp.types import RecipeError, VlpWarning

STATE, TRAINING, MODEL = "state.json", "training.pt", "model"
LOCK = "recipe.lock.yaml"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Args:
        path: Its folder.
        step: Optimizer steps done.
        position: Samples of the whole job consumed.
    """

    path: Path
    step: int
    position: int

    def weights(self, label: str = MODEL) -> dict[str, Tensor]:
        """Return the weights called `label` (`model`, or the label of a strategy such as `ema`)."""
        return load_file(self.path / f"{label}.safetensors")

    def training(self) -> dict[str, Any]:
        """Return optimizer, strategy and guard state; only tensors and plain values can be in it."""
        return torch.load(self.path / TRAINING, map_location="cpu", weights_only=True)

    def labels(self) -> list[str]:
        """Return the labels of all weights in it."""
        return sorted(file.stem for file in self.path.glob("*.safetensors"))


def save(
    run: Path,
    *,
    step: int,
    position: int,
    weights: Mapping[str, Mapping[str, Tensor]],
    training: Mapping[str, Any],
    keep: int,
) -> Checkpoint:
    """Write a checkpoint of the run and drop all but the newest `keep`.

    Args:
        run: The run folder.
        step: Optimizer steps done.
        position: Samples consumed by the whole job.
        weights: Weights by label; `model` is always among them.
        training: What a resume needs beside weights.
        keep: Complete checkpoints that stay.
    """
    folder = run / "checkpoints"
    final = folder / f"step_{step:08d}"
    partial = folder / f".step_{step:08d}.partial"
    _remove_leftovers(folder)
    partial.mkdir(parents=True)
    try:
        for label, values in weights.items():
            save_file({name: value.contiguous() for name, value in values.items()}, partial / f"{label}.safetensors")
        torch.save(dict(training), partial / TRAINING)
        sums = {file.name: _sha256(file) for file in sorted(partial.iterdir())}
        state = {"step": step, "position": position, "sha256": sums, "versions": versions()}
        (partial / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
        for file in [*partial.iterdir(), partial]:
            _sync(file)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _sync(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in _candidates(run)[keep:]:
        shutil.rmtree(old)
    return Checkpoint(final, step, position)


def latest(run: Path) -> Checkpoint | None:
    """Return the newest checkpoint of a run whose files are whole; say which ones are not."""
    for path in _candidates(run):
        try:
            return open_checkpoint(path)
        except RecipeError as error:
            warnings.warn(f"skipped a damaged checkpoint: {error}", VlpWarning, stacklevel=2)
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Check every file of a checkpoint against its checksum.

    Raises:
        RecipeError: A file is missing or damaged; names it.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        step, position, sums = int(state["step"]), int(state["position"]), dict(state["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{path}: {STATE} is missing or damaged ({error})") from error
    for name, expected in sums.items():
        if not (path / name).is_file():
            raise RecipeError(f"{path}: {name} is missing")
        if _sha256(path / name) != expected:
            raise RecipeError(f"{path}: {name} is damaged (its checksum differs)")
    return Checkpoint(path, step, position)


class TrainedModel(NamedTuple):
    """A model as a run left it, and where it came from."""

    model: DualEncoder
    checkpoint: Checkpoint
    weights: str
    recipe: Recipe


def load_model_of_run(path: Path, weights: str | None = None) -> TrainedModel:
    """Build a run's model and load a checkpoint into it.

    Args:
        path: A run folder (its newest whole checkpoint counts) or one checkpoint folder.
        weights: Label of the weights; None takes what the recipe evaluates.

    Raises:
        RecipeError: No whole checkpoint there, or it holds no such weights.
    """
    is_checkpoint = (path / STATE).exists()
    run = path.parent.parent if is_checkpoint else path
    recipe = read_lock(run)
    checkpoint = open_checkpoint(path) if is_checkpoint else latest(run)
    if checkpoint is None:
        raise RecipeError(f"{run}: holds no complete checkpoint; resume the run to make one")
    label = weights or recipe.evaluation.weights
    if label not in checkpoint.labels():
        raise RecipeError(f"{checkpoint.path}: no weights '{label}' (known: {', '.join(checkpoint.labels())})")
    model = build_model(without_weights(recipe.model))
    model.load_state_dict(checkpoint.weights(label))
    return TrainedModel(model.eval(), checkpoint, label, recipe)


def read_lock(run: Path) -> Recipe:
    """Return the recipe that a run folder was made from."""
    path = run / LOCK
    if not path.is_file():
        raise RecipeError(f"{run}: is no run folder ({LOCK} is missing)")
    return check_recipe(read_layers(path))


def _candidates(run: Path) -> list[Path]:
    """Return checkpoint folders, newest first."""
    return sorted((run / "checkpoints").glob("step_*"), reverse=True)


def _remove_leftovers(folder: Path) -> None:
    for stale in folder.glob(".step_*.partial"):
        shutil.rmtree(stale)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
