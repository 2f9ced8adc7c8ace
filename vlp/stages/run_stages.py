"""Multistage contrast: every stage draws its batches from what the stages before it cannot tell apart."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from vlp.data.sample_groups import ABOUT, read_group_folder
from vlp.data.samples import only_source
from vlp.embeddings.embed import embed
from vlp.embeddings.parts import MANIFEST
from vlp.export.run import export_run
from vlp.ground import dist
from vlp.ground.bits import checksum
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe
from vlp.recipe.schema import Recipe
from vlp.run.trained_model import load_model_of_run
from vlp.stages.grouping import cluster
from vlp.towers.joined import write_joined
from vlp.towers.load import load_model
from vlp.train import train

MODEL = "model"


def train_in_stages(
    recipe: str, overrides: Sequence[str] = (), *, stages: int = 3, clusters: int = 10, from_previous: bool = False
) -> Path:
    """Train a recipe several times, each time against harder batches, and return the folder of the joined model.

    Zhang et al. 2024, "Learning the Unlearned" (arXiv:2402.11816): after each stage the images of the whole card are
    embedded and clustered, and the next stage draws every batch from one group, which is the product of all clusters
    so far; what tells the groups apart no longer helps, so that other features are learned. In the end the embeddings
    of all stages stand side by side. Stopped anywhere, the same call goes on where it was.

    Args:
        recipe: Name or path.
        overrides: `key=value` on top of it; its folder holds `stage-0`, `embeddings-0`, `groups-1` and so on.
        stages: How many trainings.
        clusters: Clusters of each stage (10 in the paper).
        from_previous: Start from the weights of the stage before; otherwise as the recipe says.

    Raises:
        RecipeError: The recipe has several sources, groups are too small for its batches, or were made otherwise; names
            the key.
        SystemExit: With code 75 after a signal, once the state is saved.
    """
    _check(stages, clusters)
    whole = load_recipe(recipe, overrides)
    card, home = _card_of(whole), whole.folder
    for stage in range(stages):
        told = [*overrides, f"runs={home}", f"name=stage-{stage}"]
        if stage:
            told += [f"data.groups={_group(home, stage, card, clusters, whole.seed)}"]
            told += [f"model.weights={home / f'stage-{stage - 1}'}"] if from_previous else []
        train(load_recipe(recipe, told), resume=True)
    return dist.on_main(partial(_join, home, stages))


def _group(home: Path, stage: int, card: str, clusters: int, seed: int) -> Path:
    """Return the groups that a stage draws from, made where they are not there yet."""
    before, to = home / f"groups-{stage - 1}", home / f"groups-{stage}"
    embeddings, is_made = home / f"embeddings-{stage - 1}", (to / ABOUT).exists()
    if not is_made or (embeddings / MANIFEST).exists():  # those that are there must be of the stage as it is
        run = home / f"stage-{stage - 1}"
        try:
            embed(str(run), card, embeddings, sides=("images",), file_format="npy", kind="float32")
        except RecipeError as error:
            raise RecipeError(
                f"{error}; if {run} was trained anew, remove {embeddings} and the groups and stages behind it"
            ) from error
    if is_made:
        _check_groups(to, clusters, seed)
    else:
        within = before if stage > 1 else None
        sizes = dist.on_main(partial(cluster, embeddings, to, clusters=clusters, seed=seed, within=within))
        if dist.is_main():
            print(f"stage {stage}: {sum(size > 0 for size in sizes)} groups of {min(sizes)} to {max(sizes)} samples")
    return to


def _check_groups(folder: Path, clusters: int, seed: int) -> None:
    told, _ = read_group_folder(folder)
    made, wanted = (told.get("clusters"), told.get("seed")), (clusters, seed)
    if made != wanted:
        raise RecipeError(
            f"{folder}: was made with --clusters {made[0]} and seed={made[1]}, not {wanted[0]} and {wanted[1]}: take "
            "the same to go on, or another name= to start anew"
        )


def _join(home: Path, stages: int) -> Path:
    """Export every stage, and say that they are one model."""
    to = home / MODEL
    members = [f"stage-{stage}" for stage in range(stages)]
    for member in members:
        if (to / member).exists() and not _is_export_of(to / member, home / member):
            shutil.rmtree(to / member)  # of weights that this stage had before it was trained anew
        if not (to / member).exists():
            export_run(home / member, to / member)
    write_joined(to, members)  # also where there were fewer stages before, or more
    return to


def _is_export_of(folder: Path, run: Path) -> bool:
    """Whether an export is whole and holds the weights that a run ended with."""
    try:
        exported = load_model(str(folder))
    except RecipeError:
        return False
    trained = load_model_of_run(run).model
    return bool(torch.equal(checksum(exported.state_dict().values()), checksum(trained.state_dict().values())))


def _card_of(recipe: Recipe) -> str:
    sources = recipe.data.train
    is_repeated = any(each.repeat != 1 for each in sources.values())
    source = only_source(sources, is_repeated, "data.train: stages group one card")
    if recipe.data.groups is not None:
        raise RecipeError("data.groups: stages make groups of their own: leave it out")
    return source.card


def _check(stages: int, clusters: int) -> None:
    for flag, value in (("--stages", stages), ("--clusters", clusters)):
        if value < 1:
            raise RecipeError(f"{flag}: {value} must be at least 1")
