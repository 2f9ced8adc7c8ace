"""A run whose batches grow: resumed equals uninterrupted, two processes equal one, and epochs end where they did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.processes import run_processes
from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from tests.tiny import tiny_recipe
from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe
from vlp.report.reading import read_run
from vlp.run.compatibility import _check_batch
from vlp.run.micro_batch_count import MicroBatchCount
from vlp.train import train

GROWING = "train.first_batches=[{batch_size: 2, steps: 2}, {batch_size: 4, steps: 2}]"
SIZES = [2, 2, 4, 4, 8, 8]


def samples_of(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["samples"] for line in lines if "loss" in line]


@pytest.mark.parametrize("workers", [0, 2])
def test_it_resumes_bit_for_bit(tmp_path, workers):
    recipe = recipe_of(tmp_path, GROWING, f"data.workers={workers}", "train.micro_batches=2")
    assert_resumes(recipe)
    assert samples_of(recipe.folder) == [sum(SIZES[: step + 1]) for step in range(6)]


def _train_with_others(rank, world_size, folder, shards):
    recipe = tiny_recipe(Path(folder) / str(rank), shards, GROWING, STEADY, f"runs={folder}/two", "name=two")
    return losses_of(train(recipe))


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path):
    recipe = recipe_of(tmp_path, GROWING, STEADY, "train.precision=float32")
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    one = losses_of(train(recipe))
    two = run_processes(_train_with_others, 2, str(tmp_path), f"{tmp_path}/shards/*.tar")[0]
    for single, double in zip(one, two, strict=True):
        assert double["loss"] == pytest.approx(single["loss"], rel=1e-3)  # float32 sums in another order, 6 steps


def test_epochs_are_as_long_as_ever(tmp_path):
    run = train(recipe_of(tmp_path, GROWING, "train.epochs=2"))  # of 21 samples: 2 + 2 + 4 + 4 + 4 * 8 are 44
    assert len(losses_of(run)) == 8 == read_run(run).num_steps


def test_fewer_pairs_are_embedded_in_pieces_that_are_no_larger():
    count = MicroBatchCount(4, 32)
    assert [count.at(0, pairs) for pairs in (32, 16, 12, 8, 5, 1)] == [4, 2, 2, 1, 1, 1]
    assert MicroBatchCount(32, 32).at(0, 12) == 12


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (
            "[{batch_size: 16, steps: 2}]",
            r"train\.first_batches: batches of 16 are larger than those at the end, which have 8",
        ),
        ("[{batch_size: 3, steps: 2}]", r"train\.first_batches: 3 pairs do not divide among 2 processes"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, monkeypatch, stages, words):
    monkeypatch.setattr(dist, "world_size", lambda: 2)
    with pytest.raises(RecipeError, match=words):
        _check_batch(recipe_of(tmp_path, f"train.first_batches={stages}"))


def test_a_stage_without_steps_is_a_mistake(tmp_path):
    with pytest.raises(RecipeError, match=r"train\.first_batches\.0\.steps"):
        load_recipe("base", ("name=a", "data.train=embedded", "train.steps=1", "train.first_batches=[{batch_size: 4}]"))
