"""CrossUniformityTerm against a slow reading of the paper."""

from __future__ import annotations

import pytest

from tests.objectives.batches import draw_leaves, gradients_of, unit, value_of
from tests.objectives.test_uniformity import kernel_by_hand
from vlp.objectives.cross_uniformity import CrossUniformityTerm


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_matches_paper(size, sharpness):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    expected = kernel_by_hand(image, text, sharpness)
    assert value_of(CrossUniformityTerm(sharpness=sharpness), image, text) == pytest.approx(expected, rel=1e-9)


def test_sharpness_must_be_positive():
    with pytest.raises(ValueError, match="sharpness 0"):
        CrossUniformityTerm(sharpness=0)


def test_it_never_moves_the_scale():
    assert gradients_of(CrossUniformityTerm(), draw_leaves(5))[2].item() == 0
