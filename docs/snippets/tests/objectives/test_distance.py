"""DistanceTerm against a slow reading of the paper."""

import math

import pytest

from tests.objectives.batches import unit, value_of
from vlp.objectives.distance import DistanceTerm

NO_NEGATIVES = "each pair alone"
VARIANTS = [{"power": 1.5}]


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_matches_paper(power):
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    by_hand = sum(math.dist(a.tolist(), b.tolist()) ** power for a, b in zip(image, text, strict=True)) / 7
    assert value_of(DistanceTerm(power=power), image, text) == pytest.approx(by_hand)
