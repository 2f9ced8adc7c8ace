"""Centred kernel alignment against Gram matrices, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.evaluators.kinds import slopes
from vlp.evaluators.cka import linear_cka


def draw(size, *widths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(size, max(widths), generator=generator, dtype=torch.float64)
    return [shared[:, :w] + torch.randn(size, w, generator=generator, dtype=torch.float64) for w in widths]


def hsic(first, second, unbiased):
    size = len(first)
    k, m = first @ first.T, second @ second.T
    if not unbiased:
        centre = np.eye(size) - 1 / size
        return np.trace(k @ centre @ m @ centre)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    ones = np.ones(size)
    middle = (ones @ k @ ones) * (ones @ m @ ones) / ((size - 1) * (size - 2))
    return (np.trace(k @ m) + middle - 2 / (size - 2) * ones @ k @ m @ ones) / (size * (size - 3))


@pytest.mark.parametrize("unbiased", [True, False])
def test_equals_the_gram_matrices(unbiased):
    first, second = draw(23, 5, 9)
    x, y = first.numpy(), second.numpy()
    expected = hsic(x, y, unbiased) / np.sqrt(hsic(x, x, unbiased) * hsic(y, y, unbiased))
    assert linear_cka(first, second, unbiased=unbiased).value == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("unbiased", [True, False])
def test_turning_moving_and_scaling_change_nothing(unbiased):
    first, second = draw(40, 6, 6)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert linear_cka(first, 3 * first @ turn + 2, unbiased=unbiased).value == pytest.approx(1)
    before = linear_cka(first, second, unbiased=unbiased).value
    assert linear_cka(first @ turn, 0.1 * second - 5, unbiased=unbiased).value == pytest.approx(before)


def test_few_samples_of_unrelated_features_do_not_look_alike():
    first, second = (torch.randn(30, 200, generator=torch.Generator().manual_seed(s)).double() for s in (1, 2))
    assert linear_cka(first, second, unbiased=False).value > 0.8
    assert abs(linear_cka(first, second).value) < 0.2
    many = [torch.randn(1000, 4, generator=torch.Generator().manual_seed(s)).double() for s in (1, 2)]
    assert linear_cka(*many).value == linear_cka(*many, unbiased=False).value


@pytest.mark.parametrize("unbiased", [True, False])
def test_constant_features_are_like_nothing(unbiased):
    constant = torch.full((9, 3), 0.1).double()
    for other in (torch.eye(9).double(), constant):
        found = linear_cka(constant, other, unbiased=unbiased).as_metric("cka")
        assert (found.value, found.low, found.high) == (0, 0, 0)


def test_influences_of_many_samples_are_derivatives_by_weights():
    first, second = draw(15, 3, 4)
    x, y = first.numpy(), second.numpy()

    def covariance(a, b, w):
        a, b = a - w @ a / w.sum(), b - w @ b / w.sum()
        return ((a * w[:, None]).T @ b) ** 2

    def number(w):
        norms = covariance(x, x, w).sum() * covariance(y, y, w).sum()
        return covariance(x, y, w).sum() / np.sqrt(norms)

    found = linear_cka(first, second, unbiased=False).influences.numpy()
    assert found == pytest.approx(slopes(number, 15), abs=1e-8)


def test_the_interval_of_few_samples_is_the_jackknife():
    first, second = draw(17, 3, 4)
    without = [linear_cka(*(rows[torch.arange(17) != i] for rows in (first, second))).value for i in range(17)]
    expected = np.sum((np.array(without) - np.mean(without)) ** 2) * 16 / 17
    assert float(linear_cka(first, second).influences.square().sum()) == pytest.approx(expected)


def test_four_samples_do_not_say_how_sure_they_are():
    found = linear_cka(*draw(4, 3, 3)).as_metric("cka")
    assert (found.low, found.high) == (-1, 1)


@pytest.mark.parametrize("size", [100, 1200])
def test_intervals_hold_the_truth(size):
    first, second = draw(20_000, 6, 9)
    truth = linear_cka(first, second).value
    held = 0
    for part in range(60):
        chosen = torch.randperm(20_000, generator=torch.Generator().manual_seed(part))[:size]
        found = linear_cka(first[chosen], second[chosen]).as_metric("cka")
        held += found.low <= truth <= found.high
    assert held >= 52
