"""ImageGroundedTerm against a slow reading of the paper, and whose wrong captions each image meets."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import unit, value_of
from vlp.objectives.image_grounded import ImageGroundedTerm


def wrong_captions(size, num, dim=6):
    return torch.stack([unit(size, dim, 20 + k) for k in range(num)], dim=1)


@pytest.mark.parametrize("num", [1, 3])
def test_matches_paper(num):
    image, text, negatives = unit(7, 6, 1), unit(7, 6, 2), wrong_captions(7, num)
    total = 0.0
    for i in range(7):
        right = math.exp(10 * float(image[i] @ text[i]))
        wrong = sum(math.exp(10 * float(image[i] @ negatives[i, m])) for m in range(num))
        total -= math.log(right / (right + wrong))
    assert value_of(ImageGroundedTerm(), image, text, negatives=negatives) == pytest.approx(total / 7, rel=1e-9)


def test_one_wrong_caption_is_the_softplus_of_the_margin():
    image, text, negatives = unit(7, 6, 1), unit(7, 6, 2), wrong_captions(7, 1)
    margin = 10 * ((image * negatives[:, 0]).sum(1) - (image * text).sum(1))
    expected = torch.nn.functional.softplus(margin).mean().item()
    assert value_of(ImageGroundedTerm(), image, text, negatives=negatives) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num", [1, 4])
def test_each_image_meets_the_wrong_captions_of_its_own(num):
    """Labelled dummies: caption m of sample i points along axis i, as image i does and no other."""
    axes = torch.eye(8).double()
    own = axes[:, None].expand(8, num, 8)
    value = value_of(ImageGroundedTerm(), axes, axes.roll(1, 0), negatives=own)
    assert value == pytest.approx(math.log(1 + num * math.exp(10)), rel=1e-9)
    value = value_of(ImageGroundedTerm(), axes, axes.roll(1, 0), negatives=own.roll(1, 0))
    assert value == pytest.approx(math.log(1 + num), rel=1e-9)
