"""Signed steps against losses whose worst input is known."""

import pytest
import torch
from torch import nn

from vlp.attacks.ball import ANYTHING, random_start
from vlp.attacks.pgd import gradient_of, pgd


def slope(weights):
    return lambda values: (values * weights).flatten(1).sum(1)


def by_hand(loss, centre, radius, step, num_steps):
    """Madry et al. 2018, section 2.1, one sample and one coordinate at a time."""
    found = centre.clone()
    for _ in range(num_steps):
        leaf = found.clone().requires_grad_()
        loss(leaf).sum().backward()
        for place in range(found.numel()):
            x, low = found.view(-1)[place], centre.view(-1)[place] - radius
            x = x + step * torch.sign(leaf.grad.view(-1)[place])
            found.view(-1)[place] = min(max(x, low, torch.tensor(0.0)), low + 2 * radius, torch.tensor(1.0))
    return found


def test_steps_are_those_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    centre, goal = torch.rand(2, 2, 3, 3, generator=generator), torch.rand(2, 2, 3, 3, generator=generator)

    def loss(values):
        return (values - goal).square().flatten(1).sum(1).sin()

    found = pgd(loss, centre, radius=0.1, step=0.03, num_steps=5)
    torch.testing.assert_close(found, by_hand(loss, centre, 0.1, 0.03, 5))


def test_the_worst_of_a_slope_is_a_corner_of_the_ball():
    weights = torch.tensor([[2.0, -0.1, 3.0, -4.0]])
    centre = torch.tensor([[0.5, 0.5, 0.98, 0.01]])
    found = pgd(slope(weights), centre, radius=0.05, step=0.02, num_steps=3)
    torch.testing.assert_close(found, torch.tensor([[0.55, 0.45, 1.0, 0.0]]))


def test_more_steps_find_a_larger_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))
    centre = torch.rand(16, 3, 2, 2)
    found = [model(pgd(model, centre, radius=0.1, step=0.02, num_steps=k)).sum().item() for k in (0, 1, 3, 10)]
    assert found == sorted(found)
    assert found[3] > found[0]


def test_a_start_is_where_it_begins_and_its_centre_where_the_ball_is():
    centre = torch.full((2, 5), 0.5)
    start = random_start(centre, 0.1, torch.arange(2))
    assert torch.equal(pgd(slope(1.0), centre, radius=0.1, step=0.05, num_steps=0, start=start), start)
    torch.testing.assert_close(
        pgd(slope(1.0), centre, radius=0.1, step=0.3, num_steps=1, start=start), torch.full((2, 5), 0.6)
    )


def test_parameters_get_no_gradient_and_nothing_is_kept():
    model = nn.Linear(4, 1)
    with torch.no_grad():  # whoever calls it
        found = pgd(model, torch.rand(3, 4), radius=0.1, step=0.1, num_steps=2)
    assert model.weight.grad is None
    assert not found.requires_grad
    assert not gradient_of(model, torch.rand(3, 4)).requires_grad


@pytest.mark.parametrize("num_steps", [1, 3])
def test_each_step_calls_the_loss_once(num_steps):
    calls = []
    pgd(lambda values: calls.append(1) or values.sum(), torch.rand(2, 3), radius=0.1, step=0.1, num_steps=num_steps)
    assert len(calls) == num_steps


def test_unbounded_values_leave_the_range_of_pixels():
    found = pgd(slope(1.0), torch.full((1, 2), 3.0), radius=0.5, step=1.0, num_steps=1, bounds=ANYTHING)
    assert found.tolist() == [[3.5, 3.5]]
