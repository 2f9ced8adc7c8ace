"""AlignmentTerm against a slow reading of the paper, and its gradient where a pair already agrees."""

from __future__ import annotations

import math

import pytest

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from vlp.objectives.alignment import AlignmentTerm

VARIANTS = [{"power": 1.5}]


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_matches_paper(power):
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    by_hand = sum(math.dist(a.tolist(), b.tolist()) ** power for a, b in zip(image, text, strict=True)) / 7
    assert value_of(AlignmentTerm(power=power), image, text) == pytest.approx(by_hand)


def test_it_is_two_minus_twice_the_mean_cosine():
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    assert value_of(AlignmentTerm(), image, text) == pytest.approx(2 - 2 * (image * text).sum(1).mean().item())


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_perfect_alignment_has_a_finite_gradient(power):
    image = unit(5, 6, 1)
    leaves = [image.requires_grad_(), image.detach().clone().requires_grad_(), *draw_leaves(5)[2:]]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients_of(AlignmentTerm(power=power), leaves))


def test_power_below_one_is_refused():
    with pytest.raises(ValueError, match=r"power 0\.5"):
        AlignmentTerm(power=0.5)


def test_it_never_moves_the_scale():
    assert gradients_of(AlignmentTerm(), draw_leaves(5))[2].item() == 0
