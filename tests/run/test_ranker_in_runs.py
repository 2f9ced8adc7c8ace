"""Runs with a ranker beside the towers: resumed, in micro-batches, on two processes."""

from __future__ import annotations

import pytest

from tests.processes import run_processes
from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from vlp.ground.types import RecipeError
from vlp.train import train

SMALL = "num_negatives: 3, width: 8, layers: 1, context_length: 6"
TERM = f"objective.adversarial_ranker={{{SMALL}, first_step: 1, adversarial: 0.5}}"


def test_it_resumes_bit_for_bit_ranker_and_its_optimizer_included(tmp_path):
    recipe = recipe_of(tmp_path, TERM, STEADY)
    assert_resumes(recipe)
    assert losses_of(recipe.folder)[-1]["loss/adversarial_ranker"] > 0


def _train_with_others(rank, _world_size, folder):
    (folder / str(rank)).mkdir()
    return losses_of(train(recipe_of(folder / str(rank), TERM, STEADY, f"runs={folder}", "name=two", "train.steps=3")))


@pytest.mark.processes
def test_two_processes_and_micro_batches_equal_one(tmp_path):
    (tmp_path / "alone").mkdir()
    whole, pieces = (
        losses_of(
            train(
                recipe_of(tmp_path / "alone", TERM, STEADY, f"train.micro_batches={n}", f"name=of{n}", "train.steps=3")
            )
        )
        for n in (1, 2)
    )
    together = run_processes(_train_with_others, 2, tmp_path)[0]
    for one, other, two in zip(whole, pieces, together, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
        assert two == pytest.approx(one, rel=1e-3)  # float32 sums in another order


def test_a_locked_image_tower_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"model\.freeze"):
        train(recipe_of(tmp_path, TERM, "model.freeze=[visual]"))
