"""WeightedDclTerm against a slow reading of the paper."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from vlp.objectives.dcl import DclTerm
from vlp.objectives.dclw import WeightedDclTerm

VARIANTS = [{"intra": True}]


def weights_by_hand(image, text, sigma):
    size = len(image)
    shares = [math.exp(float(image[i] @ text[i]) / sigma) for i in range(size)]
    return [2 - size * share / sum(shares) for share in shares]


def dclw_by_hand(image, text, scale, sigma, intra):
    size, total = len(image), 0.0
    weights = weights_by_hand(image, text, sigma)
    for i in range(size):
        for own, other in ((image, text), (text, image)):
            others = [j for j in range(size) if j != i]
            denominator = sum(math.exp(scale * float(own[i] @ other[j])) for j in others)
            if intra:
                denominator += sum(math.exp(scale * float(own[i] @ own[j])) for j in others)
            total += math.log(denominator) - weights[i] * scale * float(own[i] @ other[i])
    return total / (2 * size)


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("intra", [False, True])
def test_matches_paper(size, intra):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    expected = dclw_by_hand(image, text, 10.0, 0.3, intra)
    assert value_of(WeightedDclTerm(sigma=0.3, intra=intra), image, text) == pytest.approx(expected)


def test_mean_weight_is_one():
    assert sum(weights_by_hand(unit(7, 6, 1), unit(7, 6, 2), 0.5)) == pytest.approx(7)


@pytest.mark.parametrize("intra", [False, True])
def test_equally_aligned_pairs_cost_as_dcl(intra):
    image = unit(7, 6, 1)
    expected = value_of(DclTerm(intra=intra), image, image)
    assert value_of(WeightedDclTerm(intra=intra), image, image) == pytest.approx(expected)


def test_weights_carry_no_gradient():
    """The gradient is that of dcl, plus (1 - weight) times the pull on each pair."""
    leaves = draw_leaves(7)
    image, text, scale, _ = leaves
    weights = torch.tensor(weights_by_hand(image.detach(), text.detach(), 0.5), dtype=torch.float64)
    expected = gradients_of(DclTerm(), leaves)[0] + ((1 - weights)[:, None] * scale * text).detach() / 7
    torch.testing.assert_close(gradients_of(WeightedDclTerm(), leaves)[0], expected)
