"""Products with chosen partners: the same in any number of pieces, with exact gradients."""

from __future__ import annotations

import pytest
import torch

from vlp.pairs import products, products_at


def draw(size=5, count=3, width=4):
    generator = torch.Generator().manual_seed(0)
    anchors, others = (torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (size, size + 2))
    return (
        anchors.requires_grad_(),
        others.requires_grad_(),
        torch.randint(size + 2, (size, count), generator=generator),
    )


@pytest.mark.parametrize("chosen", [1, 6, 2**15])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_values_and_gradients_are_those_of_the_whole_matrix(chosen, count, monkeypatch):
    monkeypatch.setattr(products, "CHOSEN", chosen)
    anchors, others, positions = draw(count=count)
    found = products_at(anchors, others, positions)
    torch.testing.assert_close(found, (anchors @ others.T).gather(1, positions))
    assert torch.autograd.gradcheck(lambda *leaves: products_at(*leaves, positions), (anchors, others))


def test_partners_chosen_twice_get_both_gradients():
    anchors, others, _ = draw()
    products_at(anchors, others, torch.zeros(5, 2, dtype=torch.int64)).sum().backward()
    torch.testing.assert_close(others.grad[0], 2 * anchors.detach().sum(0))


def test_partners_without_gradient_are_left_alone():
    anchors, others, positions = draw()
    products_at(anchors, others.detach(), positions).sum().backward()
    assert others.grad is None
    torch.testing.assert_close(anchors.grad, others.detach()[positions].sum(1))
