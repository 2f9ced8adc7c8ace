"""Averages by hand: between what was and what is, warming up, and deaf to steps that were skipped."""

from __future__ import annotations

import pytest
import torch

from tests.towers.tiny import tiny_batch, tiny_model
from vlp.ground.types import Batch
from vlp.strategies.ema import Ema
from vlp.strategies.ema_teacher import EmaTeacher

SCALE = "core.logit_scale"


def averages_of(strategy, values, taken=None):
    """Return the average of one weight after each step; its values are given, the first is that of the start."""
    model = tiny_model()
    found = []
    for step, value in enumerate(values):
        with torch.no_grad():
            model.core.logit_scale.fill_(value)
        if step == 0:
            strategy.start(model)
        else:
            strategy.after_step(model, None if taken is None else torch.tensor(taken[step - 1]))
            found.append(strategy.weights()[SCALE].item())
    return found


def by_hand(values, decays):
    average, found = values[0], []
    for value, decay in zip(values[1:], decays, strict=True):
        average = decay * average + (1 - decay) * value
        found.append(average)
    return found


VALUES = [0.0, 1.0, 1.0, 4.0, -2.0, 3.0]


def test_the_average_decays_by_hand():
    expected = by_hand(VALUES, [0.75] * 5)
    assert averages_of(Ema(decay=0.75, warmup=False), VALUES) == pytest.approx(expected, rel=1e-6)


def test_the_warm_up_forgets_the_start_sooner():
    expected = by_hand(VALUES, [2 / 11, 3 / 12, 4 / 13, 0.35, 0.35])
    assert averages_of(Ema(decay=0.35), VALUES) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("settings", [{"decay": 0.999}, {"decay": 0.5, "warmup": False}, {"decay": 0.0}])
def test_an_average_lies_between_old_and_new(settings):
    values = [0.0, *[1.0] * 8]
    found = averages_of(Ema(**settings), values)
    assert all(0 < average <= 1 for average in found)
    assert found == sorted(found)


def test_a_larger_batch_forgets_as_much_for_each_pair():
    """One step of 8 pairs forgets what two steps of 4 do."""
    strategy = Ema(decay=0.75, warmup=False, base_batch=4)
    empty = torch.zeros(1, 8, 1, 1, 3, dtype=torch.uint8)
    ids = torch.arange(8)
    strategy.before_forward(Batch(empty, ids[None, :, None], ids[None], torch.zeros(1, 8, 1), ids, ids, ("x",) * 8))
    assert averages_of(strategy, VALUES) == pytest.approx(by_hand(VALUES, [0.75**2] * 5), rel=1e-6)
    with pytest.raises(ValueError, match="base_batch 0"):
        Ema(base_batch=0)


def test_a_skipped_step_neither_moves_nor_counts():
    taken = [True, False, True, False, False]
    kept = [0.0, 1.0, 4.0]
    strategy = Ema(decay=0.9)
    found = averages_of(strategy, VALUES, taken)
    one, three = by_hand(kept, [2 / 11, 3 / 12])
    assert found == pytest.approx([one, one, three, three, three], rel=1e-6)
    assert strategy.state_dict()["num_steps"].item() == 2
    assert found[0] == found[1] and found[2] == found[3] == found[4]


def test_the_teacher_looks_with_the_averages():
    """At decay 1 that is the image tower as it was, whatever became of it."""
    model = tiny_model().eval()
    images, tokens, lengths = tiny_batch(model)
    ids = torch.arange(tokens.shape[1])
    pixels = torch.zeros(1, len(ids), 1, 1, 3, dtype=torch.uint8)
    batch = Batch(pixels, tokens, lengths, torch.zeros(1, len(ids), 1), ids, ids, ("tiny",) * len(ids))
    before = model(images, tokens, lengths).image.detach()
    strategy = EmaTeacher(decay=1.0, warmup=False)
    strategy.start(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    strategy.after_step(model)
    now = model(images, tokens, lengths)
    seen = strategy.after_forward(images, batch, now).reference
    torch.testing.assert_close(seen, before)
    assert not torch.allclose(seen, now.image)
    assert not seen.requires_grad


def test_the_log_says_how_far_the_average_is():
    model = tiny_model()
    strategy = Ema(decay=0.5, warmup=False)
    strategy.start(model)
    assert strategy.gauges(model) == {"weight_drift": 0, "weight_drift_image": 0, "weight_drift_text": 0}
    with torch.no_grad():
        for parameter in model.core.visual.parameters():
            parameter.mul_(3)
    strategy.after_step(model)  # the average of 1 and 3 is 2: a third away
    found = strategy.gauges(model)
    assert found["weight_drift_image"] == pytest.approx(1 / 3)
    assert found["weight_drift_text"] == 0
    assert 0 < found["weight_drift"] < 1 / 3
