"""Models as runs left them: to evaluate, to export, or to start another training from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from vlp.ground.types import RecipeError
from vlp.recipe.model import build_model, fragments, without_weights
from vlp.recipe.schema import Recipe
from vlp.run.checkpoint import LOCK, WEIGHTS, Checkpoint, is_checkpoint, latest, open_checkpoint, read_lock
from vlp.towers.base import Fragment
from vlp.towers.build import choose_activation, join
from vlp.towers.dual import DualEncoder
from vlp.towers.load import loader
from vlp.towers.low_rank import merge_adapters
from vlp.towers.meaning import PREPROCESS_KEYS, Meaning
from vlp.towers.merged_prompts import merge_prompts
from vlp.towers.sources import WeightFile, finder


def is_run(path: Path) -> bool:
    """Whether `load_model_of_run` knows what to do with a path."""
    return (path / LOCK).is_file() or is_checkpoint(path)


class TrainedModel(NamedTuple):
    """A model as a run left it, and where it came from."""

    model: DualEncoder
    checkpoint: Checkpoint
    weights: str
    recipe: Recipe


def load_model_of_run(path: Path, weights: str | None = None, *, width: int | None = None) -> TrainedModel:
    """Build a run's model and load a checkpoint into it.

    Args:
        path: A run folder (its newest whole checkpoint counts) or one checkpoint folder.
        weights: Label of the weights; None takes what the recipe evaluates.
        width: Build a model whose embeddings are so many first coordinates of the trained one's.

    Raises:
        RecipeError: No whole checkpoint there, it holds no such weights, or its towers cannot be cut.
    """
    recipe, checkpoint, label = open_run(path, weights)
    section, state = without_weights(recipe.model), checkpoint.weights(label)
    if width is None:
        model = build_model(section)
    else:
        whole: int = join(*fragments(section), recipe.model.embed_dim, None)["embed_dim"]
        if not 0 < width < whole:
            raise RecipeError(f"--width: {width} is not within the {whole} coordinates of the model's embeddings")
        model = build_model(section.model_copy(update={"embed_dim": width}))
        state = _cut(state, model.state_dict(), whole, width)
    model.load_state_dict(state)
    merge_adapters(model)
    merge_prompts(model)
    return TrainedModel(model.eval(), checkpoint, label, recipe)


def _cut(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], whole: int, width: int) -> dict[str, Tensor]:
    """Return weights of towers whose last projections give the first coordinates alone.

    Raises:
        RecipeError: Another part of the towers depends on the width of the embeddings.
    """
    found = {}
    for name, value in state.items():
        shape = wanted[name].shape
        axes = [axis for axis, (ours, theirs) in enumerate(zip(value.shape, shape, strict=True)) if ours != theirs]
        if axes and (len(axes) > 1 or (value.shape[axes[0]], shape[axes[0]]) != (whole, width)):
            raise RecipeError(f"--width: '{name}' depends on the width of the embeddings in another way; export all")
        found[name] = value.narrow(axes[0], 0, width).contiguous() if axes else value
    return found


@loader
def load_run(name: str) -> DualEncoder | None:
    """Return the model that `RUN` or `RUN:LABEL` names, as the run evaluates it where no label is given.

    Raises:
        RecipeError: No whole checkpoint there, or it holds no such weights.
    """
    path, label = split_label(name)
    return load_model_of_run(path, label).model if is_run(path) else None


@finder
def find_weights_of_run(source: str) -> WeightFile | None:
    """Return the weights that `RUN` or `RUN:LABEL` names, a run or checkpoint folder, or one of a checkpoint's files.

    Without a label these are the weights that the run evaluates.

    Raises:
        RecipeError: No whole checkpoint there, or it holds no such weights.
    """
    file = Path(source).expanduser()
    if file.suffix == WEIGHTS and is_checkpoint(file.parent) and (file.parent.parent.parent / LOCK).is_file():
        path: Path = file.parent
        wanted: str | None = file.stem
    else:
        path, wanted = split_label(source)
    if not is_run(path):
        return None
    recipe, checkpoint, label = open_run(path, wanted)
    name = f"{source} ({label}, step {checkpoint.step})"
    towers = fragments(without_weights(recipe.model))
    return WeightFile(
        checkpoint.path / f"{label}{WEIGHTS}", _meaning_of(recipe.model, *towers), name, new_tokens=towers[1].new_tokens
    )


def _meaning_of(model: Any, image: Fragment, text: Fragment) -> Meaning:
    """Return what a recipe's `model` section says of its weights."""
    said = {key: value for key in PREPROCESS_KEYS if (value := getattr(model, key, None)) is not None}
    return Meaning(choose_activation(image, text), {**image.preprocess, **said})


def split_label(name: str) -> tuple[Path, str | None]:
    """Return the path and the label of `RUN` or `RUN:LABEL`."""
    place, colon, label = name.rpartition(":")
    path = Path(place).expanduser()
    if colon and is_run(path) and not is_run(Path(name).expanduser()):
        return path, label
    return Path(name).expanduser(), None


def open_run(path: Path, label: str | None) -> tuple[Recipe, Checkpoint, str]:
    """Return the recipe of a run or checkpoint folder, the checkpoint, and the label of weights."""
    run = path.parent.parent if is_checkpoint(path) else path
    recipe = read_lock(run)
    checkpoint = open_checkpoint(path) if is_checkpoint(path) else latest(run)
    if checkpoint is None:
        raise RecipeError(f"{run}: holds no complete checkpoint; resume the run to make one")
    chosen = label or recipe.evaluation.weights
    if chosen not in checkpoint.labels():
        raise RecipeError(f"{checkpoint.path}: no weights '{chosen}' (known: {', '.join(checkpoint.labels())})")
    return recipe, checkpoint, chosen
