"""The scale stands still for the steps that it should, moves after them, and resumes where it was."""

import torch

from tests.strategies.runs import assert_resumes, recipe_of
from tests.towers.tiny import tiny_model
from vlp.strategies.held_scale import HeldScale


def scales(strategy, taken):
    """Return the scale after steps that would each add 1 to it."""
    model = tiny_model()
    scale = model.core.logit_scale.detach().fill_(2.0)
    strategy.start(model)
    found = []
    for step_is_taken in taken:
        scale += float(step_is_taken)
        strategy.after_step(model, torch.tensor(step_is_taken))
        found.append(scale.item())
    return found


def test_it_stands_still_then_moves():
    assert scales(HeldScale(steps=2), [True] * 4) == [2, 2, 3, 4]


def test_a_skipped_step_does_not_count():
    assert scales(HeldScale(steps=2), [True, False, True, True]) == [2, 2, 2, 3]


def test_resume_equals_no_interruption(tmp_path):
    assert_resumes(recipe_of(tmp_path, "strategies.held_scale={steps: 4}"))
