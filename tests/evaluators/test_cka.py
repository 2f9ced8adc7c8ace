"""Centred kernel alignment against Gram matrices, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
    assert linear_cka(first, second, unbiased=unbiased) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("unbiased", [True, False])
def test_turning_moving_and_scaling_change_nothing(unbiased):
    first, second = draw(40, 6, 6)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert linear_cka(first, 3 * first @ turn + 2, unbiased=unbiased) == pytest.approx(1)
    before = linear_cka(first, second, unbiased=unbiased)
    assert linear_cka(first @ turn, 0.1 * second - 5, unbiased=unbiased) == pytest.approx(before)


def test_few_samples_of_unrelated_features_do_not_look_alike():
    first, second = (torch.randn(30, 200, generator=torch.Generator().manual_seed(s)).double() for s in (1, 2))
    assert linear_cka(first, second, unbiased=False) > 0.8
    assert abs(linear_cka(first, second)) < 0.2
    many = [torch.randn(1000, 4, generator=torch.Generator().manual_seed(s)).double() for s in (1, 2)]
    assert linear_cka(*many) == linear_cka(*many, unbiased=False)


def test_constant_features_are_like_nothing():
    assert np.isnan(linear_cka(torch.ones(9, 3).double(), torch.eye(9).double(), unbiased=False))
