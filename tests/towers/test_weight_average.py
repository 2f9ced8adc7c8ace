"""A mean of weights is exact where it can be, and the ends of a line are its ends."""

from __future__ import annotations

import pytest
import torch

from vlp.ground.types import RecipeError
from vlp.towers.weight_average import WeightAverage, between


def draw(seed: int, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(40, 30, generator=generator), "b": torch.randn(7, generator=generator) * 1e-4, **more}


def average_of(*weights, shares=None):
    found = WeightAverage()
    for place, each in enumerate(weights):
        found.add(each, 1.0 if shares is None else shares[place], name=f"model {place}")
    return found


def test_a_mean_is_that_of_float64():
    models = [draw(seed) for seed in range(3)]
    found = average_of(*models, shares=(2.0, 1.0, 5.0)).mean()
    for name in ("w", "b"):
        slow = sum(share * model[name].double() for share, model in zip((2, 1, 5), models, strict=True)) / 8
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], slow.float())


@pytest.mark.parametrize("shares", [None, (0.3, 0.7, 0.1), (1e-3, 5.0, 17.0)])
def test_equal_weights_stay_what_they_are_bit_for_bit(shares):
    model = draw(0)
    found = average_of(model, model, model, shares=shares).mean()
    assert all(torch.equal(found[name], model[name]) for name in model)


def test_the_order_of_models_hardly_matters():
    models = [draw(seed) for seed in range(5)]
    forward, backward = average_of(*models).mean(), average_of(*models[::-1]).mean()
    torch.testing.assert_close(forward["w"], backward["w"], rtol=1e-7, atol=1e-7)


def test_what_is_tried_is_not_added():
    first, second = draw(0), draw(1)
    found = average_of(first)
    tried = found.mean_with(second)
    assert torch.equal(tried["w"], average_of(first, second).mean()["w"])
    assert torch.equal(found.mean()["w"], first["w"])


def test_the_models_that_are_added_are_not_changed():
    first, second = draw(0), draw(1)
    average_of(first, second)
    assert torch.equal(first["w"], draw(0)["w"]) and torch.equal(second["w"], draw(1)["w"])


def test_whole_numbers_are_those_of_the_first():
    found = average_of(draw(0, steps=torch.tensor(3)), draw(1, steps=torch.tensor(90))).mean()
    assert found["steps"].dtype == torch.int64 and int(found["steps"]) == 3


def test_half_precision_is_summed_in_full():
    ones = {"w": torch.ones(3, dtype=torch.bfloat16)}
    found = average_of(*[ones] * 1000).mean()  # a sum in bfloat16 would stop at 256
    assert found["w"].dtype == torch.bfloat16 and torch.equal(found["w"], ones["w"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_name(value):
    broken = draw(1)
    broken["b"][3] = value
    with pytest.raises(RecipeError, match="'model 1': b is not finite"):
        average_of(draw(0), broken)


def test_the_ends_of_a_line_are_its_models():
    start, end = draw(0), draw(1)
    assert torch.equal(between(start, end, 0.0)["w"], start["w"])
    assert torch.equal(between(start, end, 1.0)["w"], end["w"])
    quarter = 0.75 * start["w"].double() + 0.25 * end["w"].double()
    assert torch.equal(between(start, end, 0.25)["w"], quarter.float())
