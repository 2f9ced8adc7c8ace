"""The scale takes whole steps while the temperature is high, a third of each where it is low, and resumes there."""

from __future__ import annotations

import math

import pytest
import torch

from tests.strategies.runs import assert_resumes, recipe_of
from tests.towers.tiny import tiny_model
from vlp.strategies.slow_temperature import SlowTemperature


def temperatures_after(steps, start, **settings):
    """Return the temperature after each step of the logarithm of the scale."""
    model, strategy, found = tiny_model(), SlowTemperature(**settings), []
    scale = model.core.logit_scale.detach().fill_(-math.log(start))
    strategy.start(model)
    for step in steps:
        scale += step
        strategy.after_step(model, torch.tensor(True))
        found.append(math.exp(-scale.item()))
    return found


def test_steps_are_cut_by_where_they_begin():
    """As step_lr_thresh of the authors: the rate of a step is that of the temperature before it."""
    found = temperatures_after([0.2, 0.3, 0.3, -0.3], 0.04)
    logs, low = [math.log(1 / 0.04)], math.log(1 / 0.03)
    for step in (0.2, 0.3, 0.3, -0.3):
        logs.append(logs[-1] + step * (1 / 3 if logs[-1] >= low else 1))
    assert found == pytest.approx([math.exp(-x) for x in logs[1:]], rel=1e-6)
    assert found[1] < 0.03 < found[0]


def test_resume_equals_no_interruption(tmp_path):
    groups = "optimizer.groups={scale: {match: [logit_scale], learning_rate_factor: 0.25, constant: true}}"
    assert_resumes(recipe_of(tmp_path, "strategies.slow_temperature={below: 0.1}", groups))


@pytest.mark.parametrize("settings", [{"below": 0.0}, {"factor": 0.0}, {"factor": 1.0}])
def test_what_brakes_nothing_is_refused(settings):
    with pytest.raises(ValueError, match="must be positive"):
        SlowTemperature(**settings)
