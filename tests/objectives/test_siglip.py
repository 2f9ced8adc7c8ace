"""SigLipTerm against a slow reading of the paper."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import unit, value_of
from vlp.objectives.siglip import SigLipTerm


def siglip_by_hand(image, text, scale, bias):
    """Equation 1, one image-text combination at a time."""
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            sign = 1 if i == j else -1
            total += math.log(1 + math.exp(-sign * (scale * float(image[i] @ text[j]) + bias)))
    return total / len(image)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_matches_paper(size):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    by_hand = siglip_by_hand(image, text, 10.0, -5.0)
    assert value_of(SigLipTerm(), image, text, scale=10.0, bias=-5.0) == pytest.approx(by_hand, rel=1e-10)


def test_one_pair_costs_softplus_of_its_logit():
    image = torch.eye(1, 4).double()
    assert value_of(SigLipTerm(), image, image, scale=3.0, bias=-1.0) == pytest.approx(math.log(1 + math.exp(-2)))


def test_starts_near_minus_its_bias():
    image, text = unit(256, 512, 1), unit(256, 512, 2)
    assert value_of(SigLipTerm(), image, text, scale=10.0, bias=-10.0) == pytest.approx(10.0, abs=0.1)


def test_saturated_logits_neither_overflow_nor_vanish():
    image = torch.eye(2, 2)
    assert value_of(SigLipTerm(), image, -image, scale=200.0, bias=0.0) == pytest.approx(200 + math.log(2), rel=1e-6)
