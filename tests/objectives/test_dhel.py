"""DhelTerm against a slow reading, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import unit, value_of
from vlp.objectives.dhel import DhelTerm


def dhel_by_hand(image, text, scale):
    size, total = len(image), 0.0
    for i in range(size):
        for own in (image, text):
            total += math.log(sum(math.exp(scale * float(own[i] @ own[j])) for j in range(size) if j != i))
        total -= scale * float(image[i] @ text[i])
    return total / size


@pytest.mark.parametrize("size", [2, 7])
def test_matches_paper(size):
    image, text = unit(size, 6, 1), unit(size, 6, 2)
    assert value_of(DhelTerm(), image, text) == pytest.approx(dhel_by_hand(image, text, 10.0), rel=1e-10)


def test_texts_of_other_pairs_do_not_count():
    """Turn all texts together: only the alignment of pairs changes."""
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    turn, _ = torch.linalg.qr(unit(6, 6, 3))
    change = 10 * ((image * text).sum(1) - (image * (text @ turn)).sum(1)).mean().item()
    assert value_of(DhelTerm(), image, text @ turn) - value_of(DhelTerm(), image, text) == pytest.approx(change)
