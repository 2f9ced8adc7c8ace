"""What graphs keep on the CPU is counted as long as they live, and held to a budget."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vlp.step.kept_bytes import KeptBytes, OverBudgetError

SIDE = 100
MATRIX = 4 * SIDE * SIDE


def test_what_a_graph_keeps_counts_once_and_until_it_is_gone():
    kept = KeptBytes(1e9)
    leaf = torch.randn(SIDE, SIDE, requires_grad=True)
    with kept:
        squared = leaf.exp().square()  # each keeps its input or output, which is the same matrix
        assert kept.bytes == MATRIX
        more = squared.sin()
        assert kept.bytes == 2 * MATRIX
        more.sum().backward()
    del squared, more
    assert kept.bytes == 0
    assert torch.allclose(leaf.grad, (2 * leaf.exp().square() * leaf.exp().square().cos()).detach())


def test_weights_are_there_anyway():
    layer = nn.Linear(SIDE, SIDE, bias=False)
    kept = KeptBytes(1e9, layer.parameters())
    with kept:
        loss = layer(torch.randn(SIDE, SIDE, requires_grad=True))
        assert kept.bytes == MATRIX
    del loss


def test_what_is_too_much_is_an_out_of_memory_error_and_is_forgotten():
    kept = KeptBytes(2 * MATRIX)
    leaf = torch.randn(SIDE, SIDE, requires_grad=True)
    for _ in range(3):
        with pytest.raises(OverBudgetError, match="bytes kept for the gradients, of 80,000"), kept:
            leaf.sin().sin().sin()
    assert issubclass(OverBudgetError, torch.OutOfMemoryError)
    with kept:
        leaf.sin().sin().sum().backward()
