"""What lies in a ball stays, what does not comes to its border; a start depends on seed, step and id alone."""

import pytest
import torch

from vlp.attacks.ball import ANYTHING, PIXEL_STEP, into_ball, into_round_ball, random_start, signed_step


def pixels(num=3, side=4):
    return torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_values_outside_come_to_the_border_and_others_stay():
    centre = torch.tensor([0.5, 0.5, 0.5, 0.02, 0.99])
    values = torch.tensor([0.9, 0.1, 0.55, -0.5, 2.0])
    found = into_ball(values, centre, 0.1)
    torch.testing.assert_close(found, torch.tensor([0.6, 0.4, 0.55, 0.0, 1.0]))


def test_embeddings_have_no_bounds():
    found = into_ball(torch.tensor([5.0, -5.0]), torch.tensor([3.0, -3.0]), 1.0, ANYTHING)
    assert found.tolist() == [4.0, -4.0]


def test_vectors_outside_a_round_ball_come_back_on_the_straight_way():
    centre = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    found = into_round_ball(torch.tensor([[4.0, 5.0], [1.0, 1.5], [1.0, 1.0]]), centre, 1.0)
    torch.testing.assert_close(found, torch.tensor([[1.6, 1.8], [1.0, 1.5], [1.0, 1.0]]))
    assert torch.equal(into_round_ball(centre + 1, centre, torch.tensor(0.0)), centre)


def test_a_step_goes_uphill_by_the_same_in_every_coordinate_and_not_where_nothing_changes():
    centre = torch.full((1, 3), 0.5)
    gradient = torch.tensor([[1e-9, -30.0, 0.0]])
    torch.testing.assert_close(signed_step(centre, gradient, 0.1, centre, 0.25), torch.tensor([[0.6, 0.4, 0.5]]))
    torch.testing.assert_close(signed_step(centre, gradient, 0.4, centre, 0.25), torch.tensor([[0.75, 0.25, 0.5]]))


def test_a_radius_may_be_one_of_each_sample():
    centre = torch.full((2, 1, 1, 1), 0.5)
    found = into_ball(torch.ones_like(centre), centre, torch.tensor([0.0, 0.2]).view(2, 1, 1, 1))
    torch.testing.assert_close(found.flatten(), torch.tensor([0.5, 0.7]))


def test_a_start_fills_the_ball_evenly():
    centre = torch.full((4, 3, 16, 16), 0.5)
    found = (random_start(centre, 8 * PIXEL_STEP, torch.arange(4)) - centre) / (8 * PIXEL_STEP)
    assert found.abs().max() <= 1 + 1e-5  # rounding of centre + radius
    assert found.mean().abs() < 0.05
    assert found.std() == pytest.approx(3**-0.5, abs=0.03)


def test_a_start_is_a_function_of_seed_step_and_id_alone():
    images, ids = pixels(), torch.tensor([7, 2**62, 9])
    start = random_start(images, 0.1, ids, step=3, seed=1)
    others = torch.tensor([2, 0])
    assert torch.equal(random_start(images[others], 0.1, ids[others], step=3, seed=1), start[others])
    for changed in ({"step": 4, "seed": 1}, {"step": 3, "seed": 2}):
        assert not torch.equal(random_start(images, 0.1, ids, **changed), start)
    assert not torch.equal(random_start(images, 0.1, ids + 1, step=3, seed=1), start)


def test_without_a_radius_nothing_moves():
    assert torch.equal(random_start(pixels(), 0.0, torch.arange(3)), pixels())
