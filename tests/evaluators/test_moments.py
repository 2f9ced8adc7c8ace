"""Moments against plain loops, and their influences against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.evaluators.kinds import draw_rows, slopes
from vlp.evaluators import moments

SIZE = 11


def draw():
    first, second = draw_rows(SIZE, 4).double() + 0.2, draw_rows(SIZE, 4, seed=1).double() - 0.1
    first[2] = first[7]
    return first, second


def weighted_ratio(rows, weights):
    spectrum = np.linalg.eigvalsh(np.cov(rows.T, aweights=weights))
    return spectrum.sum() ** 2 / (spectrum**2).sum()


def weighted_rank(rows, weights, epsilon=0.0):
    singular = np.linalg.svd(rows * np.sqrt(weights)[:, None], compute_uv=False)
    shares = singular / singular.sum() + epsilon
    return np.exp(-(shares * np.log(shares)).sum())


def test_influences_are_derivatives_by_weights():
    first, second = draw()
    x, y = first.numpy(), second.numpy()

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    def within(w):
        pairs = [(i, j) for i in range(SIZE) for j in range(SIZE) if i != j]
        return sum(w[i] * w[j] * (x[i] @ x[j]) for i, j in pairs) / sum(w[i] * w[j] for i, j in pairs)

    for found, number in (
        (moments.centroid_distance(first, second), lambda w: np.linalg.norm((w @ x - w @ y) / w.sum())),
        (moments.centroid_cosine(first, second), lambda w: cosine(w @ x, w @ y)),
        (moments.mean_cosine(first), within),
        (moments.mean_cosine_across(first, second), lambda w: (w @ x) @ (w @ y) / w.sum() ** 2),
        (moments.effective_rank(first), lambda w: weighted_rank(x, w)),
        (moments.effective_rank(first, epsilon=0.01), lambda w: weighted_rank(x, w, 0.01)),
        (moments.participation_ratio(first), lambda w: weighted_ratio(x, w)),
    ):
        assert found.value == pytest.approx(number(np.ones(SIZE)))
        assert found.influences.numpy() == pytest.approx(slopes(number, SIZE), abs=1e-8)


@pytest.mark.parametrize("count", [1, 3])
def test_unused_dimensions_do_not_count(count):
    rows = torch.cat([draw_rows(SIZE, count).double(), torch.zeros(SIZE, 3)], dim=1)
    rank = moments.effective_rank(rows)
    assert rank.value == pytest.approx(weighted_rank(rows[:, :count].numpy(), np.ones(SIZE)))
    expected = slopes(lambda w: weighted_rank(rows[:, :count].numpy(), w), SIZE)
    assert rank.influences.numpy() == pytest.approx(expected, abs=1e-7)
