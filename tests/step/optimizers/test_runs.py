"""Runs with each optimizer: they go on bit for bit, and two processes compute what one does."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import run_processes
from tests.shards import write_shards
from tests.small_steps import small_parts
from tests.step.optimizers.runs import MORE, recipe_for, steps_of
from tests.step.test_skipped_steps import run_beside, spoil_gradient
from tests.test_sharded import launched, mean
from tests.tiny import tiny_recipe
from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.run.checkpoint import open_checkpoint
from vlp.run.state import full
from vlp.step.optimizers.base import optimizers
from vlp.train import train

KINDS = list(optimizers)
each_optimizer = pytest.mark.parametrize("name", KINDS)
PLAIN = ("strategies=null", "evaluation.weights=model", "model.image.patch_dropout=0.0")
WITH_NETWORKS = "objective={clip: {}, swav: {num_prototypes: 8}}"
EVERYTHING = ("optimizer.decay_towards=start", "optimizer.unfreeze_every=2", "optimizer.layer_decay=0.9")
LAST = "checkpoints/step_00000006"


def recipe_of(folder: Path, name: str, *overrides: str):
    folder.mkdir(exist_ok=True)
    own = (f"optimizer.type={name}", "optimizer.learning_rate=0.01", *MORE.get(name, ()))
    return tiny_recipe(folder, f"{folder.parent}/shards/*.tar", *PLAIN, *own, *overrides)


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)


def contents(checkpoint: Path) -> dict[str, Any]:
    """Return all that a checkpoint keeps, by path, but for what reading the data came across."""
    whole = open_checkpoint(checkpoint)
    found: dict[str, Any] = dict(whole.weights())

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{path}.{key}", inner)
        elif isinstance(value, (list, tuple)):
            walk(path, dict(enumerate(value)))
        else:
            found[path] = value

    walk("training", whole.training())
    return {key: value for key, value in found.items() if ".faults." not in key}


def changes(run: Path, again) -> list[str]:
    """Return what is not the same once the last checkpoint was thrown away and `again` has made it anew."""
    before = contents(run / LAST)
    dist.barrier()
    if dist.is_main():
        shutil.rmtree(run / LAST)
    dist.barrier()
    again()
    after = contents(run / LAST)
    assert before.keys() == after.keys()
    same = {k: torch.equal(v, after[k]) if isinstance(v, torch.Tensor) else v == after[k] for k, v in before.items()}
    return [key for key, value in same.items() if not value]


@each_optimizer
def test_a_run_goes_on_bit_for_bit(tmp_path, shards, name):
    recipe = recipe_of(tmp_path / "run", name, WITH_NETWORKS, *EVERYTHING)
    assert changes(train(recipe), lambda: train(recipe, resume=True)) == []


@each_optimizer
def test_a_skipped_step_leaves_no_trace_in_a_run(tmp_path, shards, name):
    recipes = [recipe_of(tmp_path / which, name, WITH_NETWORKS, *EVERYTHING) for which in ("seen", "unseen")]
    assert run_beside(*recipes, spoil_gradient) == ([], [], 1.0)


def _weights_of(name: str) -> list[dict[str, torch.Tensor]]:
    recipe = recipe_for(name, "optimizer.decay_towards=start")
    with pytest.MonkeyPatch.context() as patch:
        parts = small_parts(patch, recipe)
        before = {key: value.clone() for key, value in full(parts.towers.state_dict()).items()}
        return [before, steps_of(parts, recipe, range(3))]


def _on_processes(rank, world_size, folder, environment):
    found = {name: _weights_of(name) for name in KINDS}
    os.environ.update(environment)
    sharded = {name: _weights_of(name) for name in KINDS}
    resumed = {}
    for name in KINDS:
        own = ("train.steps=6", f"runs={folder}/sharded", f"name={name}", "optimizer.decay_towards=start")
        recipe = recipe_of(Path(folder) / f"{name} {rank}", name, *own)
        parts = recipe_of(Path(folder) / f"{name} {rank}", name, *own, "checkpoint.sharded=true")
        resumed[name] = changes(train(recipe), lambda parts=parts: train(parts, resume=True, allow_changes=True))
    return {"copies": found, "shards": sharded, "resumed": resumed}


one_process = cache(_weights_of)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_shards(folder / "shards", num_shards=3, samples_per_shard=7)
    return run_processes(_on_processes, 2, str(folder), launched())


# Signs and orthogonal matrices make something of the last digits of a gradient: Muon has 8 bits of them.
APART = {"adafactor": 5e-3, "lion": 5e-3, "muon": 0.1}


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize("how", ["copies", "shards"])
@each_optimizer
def test_two_processes_compute_what_one_does(processes, name, how):
    before, one = one_process(name)
    moved = mean((value - before[key]).abs() for key, value in one.items())
    for rank in processes:
        _, two = rank[how][name]
        assert two.keys() == one.keys()
        apart = mean((two[key] - value).abs() for key, value in one.items())
        assert moved > 0 and apart < APART.get(name, 1e-4) * moved


@pytest.mark.long
@pytest.mark.processes
@each_optimizer
def test_shards_go_on_bit_for_bit(processes, name):
    """From what one process gathered; at the end each writes its own part, of the same bits."""
    assert [rank["resumed"][name] for rank in processes] == [[], []]


def test_another_optimizer_is_refused_by_a_checkpoint(tmp_path, shards):
    run = train(recipe_of(tmp_path / "run", "adamw", "train.steps=3"))
    with pytest.raises(RecipeError, match=r"optimizer\.type: .*it is of adamw, not lion"):
        train(recipe_of(tmp_path / "run", "lion", "train.steps=6"), resume=True, allow_changes=True)
    with pytest.raises(RecipeError, match=r"optimizer\.decay_towards: the checkpoint of step 3 has no state of it"):
        train(recipe_of(tmp_path / "run", "adamw", "optimizer.decay_towards=start"), resume=True, allow_changes=True)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000003"]


def test_counters_of_groups_that_are_no_more_are_not_made_up(tmp_path, shards):
    train(recipe_of(tmp_path / "run", "lamb", "train.steps=3"))
    groups = "optimizer.groups={text: {match: [text], learning_rate_factor: 0.5}}"
    with pytest.raises(RecipeError, match=r"optimizer: the checkpoint of step 3 does not fit .*other groups"):
        train(recipe_of(tmp_path / "run", "lamb", groups), resume=True, allow_changes=True)
    rates = "optimizer.learning_rate=0.001"
    train(recipe_of(tmp_path / "run", "lamb", rates), resume=True, allow_changes=True)
