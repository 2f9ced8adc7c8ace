"""TextGroundedTerm against a slow reading of the paper, and whose wrong captions each caption meets."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, extras, gradients_of, unit, value_of
from tests.objectives.test_image_grounded import wrong_captions
from vlp.ground.types import Teacher
from vlp.objectives.text_grounded import TextGroundedTerm

VARIANTS = [{"scale": 3.0}]
ONE_TOWER = [{}, *VARIANTS]


@pytest.mark.parametrize("num", [1, 3])
def test_matches_paper(num):
    image, text, negatives = unit(7, 6, 1), unit(7, 6, 2), wrong_captions(7, num)
    teacher = Teacher(unit(7, 6, 3), unit(7, 6, 4))
    total = 0.0
    for i in range(7):
        right = math.exp(3 * float(text[i] @ teacher.text[i]))
        wrong = sum(math.exp(3 * float(text[i] @ negatives[i, m])) for m in range(num))
        total -= math.log(right / (right + wrong))
    value = value_of(TextGroundedTerm(scale=3.0), image, text, negatives=negatives, teacher=teacher)
    assert value == pytest.approx(total / 7, rel=1e-9)


@pytest.mark.parametrize("num", [1, 4])
def test_each_caption_meets_the_wrong_captions_of_its_own(num):
    """Labelled dummies, where the released code takes those of other samples: all of them must count for their own."""
    axes = torch.eye(8).double()
    own = axes[:, None].expand(8, num, 8)
    far = Teacher(axes, axes.roll(1, 0))
    value = value_of(TextGroundedTerm(), axes, axes, negatives=own, teacher=far)
    assert value == pytest.approx(math.log(1 + num * math.exp(10)), rel=1e-9)
    value = value_of(TextGroundedTerm(), axes, axes, negatives=own.roll(1, 0), teacher=far)
    assert value == pytest.approx(math.log(1 + num), rel=1e-9)


def test_only_texts_learn():
    image, text, scale, bias = gradients_of(TextGroundedTerm(), draw_leaves(7), **extras(7))
    assert bool(text.any())
    assert not any(bool(gradient.any()) for gradient in (image, scale, bias))


def test_a_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        TextGroundedTerm(scale=0.0)
