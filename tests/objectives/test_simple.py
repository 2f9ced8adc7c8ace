"""SimpleTerm against a slow reading of the paper, and the limit that it is."""

from __future__ import annotations

import math

import pytest

from tests.objectives.batches import unit, value_of
from vlp.objectives.clip import ClipTerm
from vlp.objectives.simple import SimpleTerm

VARIANTS = [{"fraction": 0.3, "strength": 0.5}]


def simple_by_hand(image, text, strength, fraction):
    """One anchor at a time; the paper's lambda is strength / number of negatives."""
    size, total = len(image), 0.0
    count = size - 1 if fraction is None else max(1, round(fraction * (size - 1)))
    for i in range(size):
        for own, other in ((image, text), (text, image)):
            negatives = sorted((float(own[i] @ other[j]) for j in range(size) if j != i), reverse=True)[:count]
            total += strength / count * sum(negatives) - float(own[i] @ other[i])
    return total / (2 * size)


@pytest.mark.parametrize("size", [2, 9])
@pytest.mark.parametrize("fraction", [None, 0.01, 0.4, 1.0])
@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_matches_paper(size, fraction, strength):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    value = value_of(SimpleTerm(strength=strength, fraction=fraction), image, text)
    assert value == pytest.approx(simple_by_hand(image, text, strength, fraction), rel=1e-10)


def test_is_the_slope_of_clip_at_infinite_temperature():
    """Softmax contrast is log n + scale (n - 1) / n * simple + O(scale^2)."""
    image, text, size = unit(9, 4, 1), unit(9, 4, 2), 9
    excess = {scale: value_of(ClipTerm(), image, text, scale=scale) - math.log(size) for scale in (1e-4, -1e-4)}
    slope = (excess[1e-4] - excess[-1e-4]) / 2e-4
    assert slope == pytest.approx((size - 1) / size * value_of(SimpleTerm(), image, text), rel=1e-7)


def test_the_scale_plays_no_part():
    image, text = unit(9, 6, 1), unit(9, 6, 2)
    values = {value_of(SimpleTerm(fraction=f), image, text, scale=s) for f in (None, 1.0) for s in (1.0, 50.0)}
    assert max(values) == pytest.approx(min(values), rel=1e-10)


@pytest.mark.parametrize("settings", [{"strength": -1.0}, {"fraction": 0.0}, {"fraction": 2.0}])
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        SimpleTerm(**settings)
