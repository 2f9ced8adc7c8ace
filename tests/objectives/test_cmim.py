"""CMimTerm against a slow reading of the code that it comes from, and the indifference to batch size that it claims."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import unit, value_of
from vlp.objectives.cmim import CMimTerm

VARIANTS = [{"temperature": 0.5}]


def READING(b, temperature=0.1):
    """One embedding at a time: the softmax share of itself among itself and the mean of the others' exponentials."""
    total = 0 * b.image.sum()
    for rows in (b.image, b.text):
        for i in range(b.size):
            others = torch.exp(rows[b.others[i]] @ rows[i] / temperature)
            if len(others):
                total = total - 1 / temperature + torch.log(math.exp(1 / temperature) + others.mean())
    return total / (2 * b.size)


@pytest.mark.parametrize("size", [2, 7])
def test_matches_the_code(size):
    """log_softmax of (1 / t, cosines / t - log(B - 1)), as `compute_cmim_loss` has it."""
    image, text, by_hand = unit(size, 6, 1), unit(size, 6, 2), 0.0
    for rows in (image, text):
        for i, row in enumerate(rows):
            negatives = [float(row @ rows[j]) / 0.1 - math.log(size - 1) for j in range(size) if j != i]
            by_hand -= 10 - math.log(math.exp(10) + sum(map(math.exp, negatives)))
    assert value_of(CMimTerm(), image, text) == pytest.approx(by_hand / (2 * size), rel=1e-9)


def test_the_number_of_equal_or_of_orthogonal_embeddings_does_not_matter():
    """That of negatives moves a softmax by its logarithm."""
    same = torch.eye(1, 8).double().repeat(16, 1)
    assert value_of(CMimTerm(), same[:2], same[:2]) == pytest.approx(math.log(2))
    assert value_of(CMimTerm(), same, same) == pytest.approx(math.log(2))
    apart = torch.eye(8).double()
    for size in (2, 8):
        assert value_of(CMimTerm(), apart[:size], apart[:size]) == pytest.approx(math.log1p(math.exp(-10)))


def test_an_impossible_temperature_is_refused():
    with pytest.raises(ValueError, match=r"temperature 0\.0 must be positive"):
        CMimTerm(temperature=0.0)
