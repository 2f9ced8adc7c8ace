"""What every attack on pixels must hold; a new one is covered when it is registered."""

from __future__ import annotations

import pytest
import torch

from tests.robust.stages import SETTINGS, random_problem, small
from vlp.robust.attacks.base import attacks
from vlp.robust.problem import margin

OF_PIXELS = [name for name in attacks if attacks[name].side == "images" and name in SETTINGS]
IDS = torch.tensor([7, -3, 11, 2**40, 5, 1])
each_attack = pytest.mark.parametrize("name", OF_PIXELS)


def test_there_are_attacks():
    assert {"pgd", "pgd_margin", "apgd_ce", "apgd_t", "square", "random_signs"} <= set(OF_PIXELS)


@each_attack
@pytest.mark.parametrize("radius", [0.02, 0.3])
def test_pixels_stay_in_the_ball_and_in_what_a_picture_can_hold(name, radius):
    problem, pixels = random_problem()
    pixels[0] = 0.0
    found = small(name).perturb(problem, pixels, radius, IDS).inputs
    assert (found - pixels).abs().max() <= radius + 1e-6
    assert 0 <= found.min() <= found.max() <= 1
    assert not torch.equal(found, pixels)


@each_attack
def test_nothing_moves_at_radius_zero(name):
    problem, pixels = random_problem()
    assert torch.equal(small(name).perturb(problem, pixels, 0.0, IDS).inputs, pixels)


@each_attack
def test_a_sample_meets_the_same_attack_in_any_batch(name):
    problem, pixels = random_problem()
    whole = small(name).perturb(problem, pixels, 0.05, IDS).inputs
    order = torch.tensor([4, 1, 2])
    part = small(name).perturb(problem.at(order), pixels[order], 0.05, IDS[order]).inputs
    torch.testing.assert_close(part, whole[order])


@each_attack
def test_it_leaves_less_right_than_there_was(name):
    problem, pixels = random_problem(num=60, seed=1)
    found = small(name).perturb(problem, pixels, 0.1, torch.arange(60))
    left = (margin(problem.scores(found.inputs), problem.positives) <= 0).float().mean()
    assert left < {"random_signs": 0.95, "square": 0.7}.get(name, 0.2)
    assert (found.is_blind is None) == (not small(name).needs_gradients)


@each_attack
def test_more_work_finds_no_less(name):
    problem, pixels = random_problem(num=40, seed=2)
    more = {key: 4 * value for key, value in SETTINGS[name].items() if key != "targets"}
    losses = []
    for settings in (SETTINGS[name], SETTINGS[name] | more):
        found = attacks.build(name, settings).perturb(problem, pixels, 0.01, torch.arange(40)).inputs
        losses.append(margin(problem.scores(found), problem.positives))
    assert (losses[1] > 0).sum() >= (losses[0] > 0).sum()
