"""What must hold of any run beside one that was never interrupted: `whole`, of six steps with a checkpoint at each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.processes import run_processes
from tests.strategies.runs import losses_of
from tests.tiny import tiny_recipe
from vlp.ground import dist
from vlp.recipe.compose import load_recipe
from vlp.train import train


def assert_micro_batches_change_no_loss(folder: Path, settings: tuple[str, ...], whole: Path) -> None:
    """Train the same in four micro-batches."""
    parts = losses_of(train(tiny_recipe(folder, "", *settings, "train.micro_batches=4")))
    for one, other in zip(losses_of(whole), parts, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


def assert_learns_and_resumes(whole: Path, term: str) -> None:
    """Look at the loss of a term, throw the last checkpoint away, and go on."""
    losses = losses_of(whole)
    assert losses[-1][f"loss/{term}"] < losses[0][f"loss/{term}"]
    shutil.rmtree(whole / "checkpoints" / "step_00000006")
    train(load_recipe(str(whole / "recipe.lock.yaml")), resume=True)
    assert losses_of(whole) == losses


def assert_two_processes_equal_one(folder: Path, settings: tuple[str, ...], whole: Path) -> None:
    """Train the same on two processes."""
    for ours, theirs in zip(losses_of(whole), run_processes(_train, 2, str(folder), settings)[0], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)


def _train(rank, world_size, folder, settings):
    (Path(folder) / str(rank)).mkdir()
    run = train(tiny_recipe(Path(folder) / str(rank), "", f"runs={folder}/runs", "name=two", *settings))
    dist.barrier()
    return losses_of(run)
