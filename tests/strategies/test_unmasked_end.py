"""Whole images at the end: patches are left out until then, and a resume knows where it is."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from vlp.ground.types import RecipeError
from vlp.run.assemble import assemble
from vlp.towers.patch_masks import masks_of
from vlp.train import one_step, train

TIMM = "model.image={type: timm, name: test_vit, patch_drop: 0.5}"
OWN = ("strategies={unmasked_end: {steps: 4}}", "evaluation.weights=model")


@pytest.mark.parametrize("tower", [(), (TIMM,)], ids=["open_clip", "timm"])
def test_the_tower_sees_half_of_the_patches_and_then_all(tmp_path, tower):
    run = assemble(recipe_of(tmp_path, *OWN, *tower), resume=False, allow_changes=False)
    (mask,) = masks_of(run.towers.core.visual)
    seen: list[float] = []
    mask.register_forward_hook(lambda _, whole, kept: seen.append((kept.shape[1] - 1) / (whole[0].shape[1] - 1)))
    for step, batch in enumerate(islice(run.stream.batches(0), 6)):
        one_step(run, batch, step)
    assert seen == [0.5] * 4 + [1.0] * 2


def test_a_step_that_is_skipped_does_not_count(tmp_path):
    run = assemble(recipe_of(tmp_path, *OWN), resume=False, allow_changes=False)
    strategy = run.strategies["unmasked_end"]
    for taken in (True, False, True, True, False):
        strategy.after_step(run.towers, torch.tensor(taken))
    assert not strategy.is_over()
    strategy.after_step(run.towers, torch.tensor(True))
    assert strategy.is_over()


def test_resume_equals_no_interruption(tmp_path):
    assert_resumes(recipe_of(tmp_path, *OWN))


def test_the_last_steps_are_those_of_a_tower_that_leaves_nothing_out(tmp_path):
    unmasked = losses_of(train(recipe_of(tmp_path / "one", "strategies={unmasked_end: {steps: 1}}", *OWN[1:])))
    masked = losses_of(train(recipe_of(tmp_path / "other", "strategies=null", *OWN[1:])))
    assert unmasked[0] == masked[0] and unmasked[1] != masked[1]


def test_a_tower_without_masks_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"strategies\.unmasked_end: .*set model\.image\.patch_dropout"):
        train(recipe_of(tmp_path, STEADY, *OWN))
