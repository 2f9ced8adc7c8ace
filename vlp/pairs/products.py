"""Products of each anchor with a few chosen others, in memory that does not grow with their width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

CHOSEN = 2**15  # partners that are gathered at once: 64 MB at width 512


def products_at(
    anchors: Float[Tensor, "n d"], others: Float[Tensor, "b d"], positions: Int64[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Return the products of each anchor with chosen others, gradients to both; memory grows with n * k only."""
    products: Any = _ProductsAt.apply
    return (torch.compiler.disable(products) if torch.compiler.is_compiling() else products)(anchors, others, positions)


class _ProductsAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: Tensor, others: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(anchors, others, positions)
        products = anchors.new_empty(positions.shape)
        for rows, partners in _partners(others, positions):
            torch.bmm(partners, anchors[rows, :, None], out=products[rows, :, None])
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        anchors, others, positions = ctx.saved_tensors
        to_anchors = torch.empty_like(anchors)
        to_others = torch.zeros_like(others) if ctx.needs_input_grad[1] else None
        for rows, partners in _partners(others, positions):
            torch.bmm(gradient[rows, None], partners, out=to_anchors[rows, None])
            if to_others is not None:
                torch.mul(gradient[rows, :, None], anchors[rows, None], out=partners)
                to_others.index_add_(0, positions[rows].flatten(), partners.flatten(0, 1))
        return to_anchors, to_others, None


def _partners(others: Float[Tensor, "b d"], positions: Int64[Tensor, "n k"]) -> Iterator[tuple[slice, Tensor]]:
    """Yield a few anchors at a time and their partners, in memory that the next ones overwrite."""
    (size, count), width = positions.shape, others.shape[1]
    step = max(1, CHOSEN // max(1, count))
    memory = others.new_empty(min(step, size) * count, width)
    for start in range(0, size, step):
        rows = slice(start, min(start + step, size))
        chosen = positions[rows].flatten()
        partners = torch.index_select(others, 0, chosen, out=memory[: len(chosen)])
        yield rows, partners.view(rows.stop - rows.start, count, width)
