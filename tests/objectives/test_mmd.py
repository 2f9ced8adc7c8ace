"""MmdTerm against a slow reading, and what it is for."""

from __future__ import annotations

import math

import pytest

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from vlp.objectives.mmd import MmdTerm


def mean_kernel_by_hand(one, other, sharpness):
    size = len(one)
    kernels = [
        math.exp(-sharpness * sum((float(a) - float(b)) ** 2 for a, b in zip(one[i], other[j], strict=True)))
        for i in range(size)
        for j in range(size)
        if i != j
    ]
    return sum(kernels) / len(kernels)


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_matches_paper(size, sharpness):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    within = mean_kernel_by_hand(image, image, sharpness) + mean_kernel_by_hand(text, text, sharpness)
    expected = within - 2 * mean_kernel_by_hand(image, text, sharpness)
    assert value_of(MmdTerm(sharpness=sharpness), image, text) == pytest.approx(expected, rel=1e-9)


def test_equal_clouds_have_none():
    image = unit(7, 6, 1)
    assert value_of(MmdTerm(), image, image) == pytest.approx(0, abs=1e-12)


def test_two_far_points_have_the_most():
    image = unit(1, 6, 1).repeat(5, 1)
    assert value_of(MmdTerm(sharpness=1.0), image, -image) == pytest.approx(2 - 2 * math.exp(-4))


def test_a_step_down_brings_the_clouds_together():
    leaves = draw_leaves(9)
    toward_images, toward_texts, *_ = gradients_of(MmdTerm(), leaves)
    image, text = leaves[0].detach(), leaves[1].detach()
    before = (image.mean(0) - text.mean(0)).norm()
    after = ((image - toward_images).mean(0) - (text - toward_texts).mean(0)).norm()
    assert after < before


def test_sharpness_must_be_positive():
    with pytest.raises(ValueError, match="sharpness 0"):
        MmdTerm(sharpness=0)
