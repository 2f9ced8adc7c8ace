"""What a run will need later, looked for before its first step: evaluation sets, trackers, a folder, room."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from vlp.evaluators.base import load_task
from vlp.evaluators.dataset import look
from vlp.evaluators.tasks import check_names
from vlp.ground import dist
from vlp.ground.files import beside, remove
from vlp.ground.types import RecipeError, VlpWarning
from vlp.recipe.schema import Recipe
from vlp.run.checkpoint import candidates
from vlp.run.trackers import check_trackers
from vlp.strategies.base import Strategy

GIB = 2**30


def check_ready(recipe: Recipe) -> None:
    """Refuse a run that would fail at its first evaluation, line of metrics or checkpoint.

    Raises:
        RecipeError: Names the key and a way out, on every process.
    """
    with dist.together():
        check_trackers(recipe)
        decoder = getattr(recipe.model, "decoder", None)
        tasks = []
        for name in recipe.evaluation.tasks:
            try:
                tasks.append(task := load_task(name))
                check_names(tasks)
                look(task.data)
                task.check_decoder(None if decoder is None else decoder.type)
            except RecipeError as error:
                raise RecipeError(
                    f"evaluation.tasks: {name}: {error}; bring the set there, or take the task out of the list"
                ) from error
    dist.on_main(lambda: check_writable(recipe.folder))


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing can be written.

    Raises:
        RecipeError: It cannot be made, or written to.
    """
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        probe = beside(folder / "probe")
        probe.write_bytes(b"x")
        remove(probe)
        for each in made:
            each.rmdir()  # the run may yet be refused
    except OSError as error:
        raise RecipeError(f"runs, name: {folder} cannot be written ({error}); set runs=FOLDER") from error


def check_room(recipe: Recipe, towers: nn.Module, terms: nn.Module, used: Iterable[Strategy]) -> None:
    """Refuse a disk that has no room for one checkpoint, and warn where not all that are to be kept fit.

    Raises:
        RecipeError: Says what is needed and what is free.
    """
    size = checkpoint_bytes(towers, terms, used)
    free = shutil.disk_usage(_existing(recipe.folder)).free
    most = recipe.checkpoint.keep + bool(recipe.evaluation.stop_when)  # the best one stays
    kept = min(len(candidates(recipe.folder)), most)
    needed = (most + 1 - kept) * size  # nothing is removed before its successor is there
    if free < size:
        raise RecipeError(
            f"runs: a checkpoint takes {_gib(size)}, and {recipe.folder} has {_gib(free)} left: make room, or set "
            "runs=FOLDER on another disk"
        )
    if free < needed:
        warnings.warn(
            f"checkpoint.keep: {most} checkpoints of {_gib(size)}, and one in the making, need "
            f"{_gib(needed)}, and {recipe.folder} has {_gib(free)} left: make room, or keep fewer",
            VlpWarning,
            stacklevel=3,
        )


def checkpoint_bytes(towers: nn.Module, terms: nn.Module, used: Iterable[Strategy]) -> int:
    """Return what a checkpoint takes: weights, what strategies keep, and two moments of all that trains."""
    modules = (towers, terms)
    kept = [value for module in modules for value in module.state_dict().values()]
    for strategy in used:
        kept += [*(strategy.weights() or {}).values(), *strategy.state_dict().values()]
    trained = [value for module in modules for value in module.parameters() if value.requires_grad]
    return sum(value.nbytes for value in kept if isinstance(value, Tensor)) + 2 * sum(value.nbytes for value in trained)


def _existing(folder: Path) -> Path:
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())


def _gib(size: float) -> str:
    return f"{size / GIB:.3g} GiB" if size >= GIB / 10 else f"{size / 2**20:.3g} MiB"
