"""The cross-entropy of a linear layer over a vocabulary, whose logits never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS = 2**24  # that exist at once: 64 MB in float32, 340 tokens of CLIP's vocabulary
ON_DEVICE = 8  # times as many, whose products would otherwise be too small for it


def linear_cross_entropy(
    hidden: Float[Tensor, "t w"],
    weight: Float[Tensor, "w v"],
    labels: Int64[Tensor, " t"],
    number_format: torch.dtype | None = None,
) -> Float32[Tensor, " t"]:
    """Return -log of the softmax share of each label, in memory that does not grow with tokens times words.

    Exact: some tokens at a time, forward and again for their gradients, which costs a third more products than to keep
    the logits.

    Args:
        hidden: What the layer reads; the precision of the answer is float32, or float64 where this has it.
        number_format: What products are computed in; their sums, and gradients of the weight, stay in float32.
    """
    function: Any = _LinearCrossEntropy.apply
    return (torch.compiler.disable(function) if torch.compiler.is_compiling() else function)(
        hidden, weight, labels, number_format
    )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, number_format: torch.dtype | None) -> Tensor:
        log_sums = torch.empty(len(hidden), dtype=_exact(weight.dtype), device=hidden.device)
        losses = torch.empty_like(log_sums)
        with torch.autocast(hidden.device.type, enabled=False):
            rounded = weight.to(number_format or weight.dtype)
            for rows in _pieces(hidden, weight):
                logits = _product(hidden[rows].to(rounded.dtype), rounded)
                torch.logsumexp(logits, dim=1, out=log_sums[rows])
                losses[rows] = log_sums[rows] - logits.gather(1, labels[rows, None])[:, 0]
        ctx.save_for_backward(hidden, weight, labels, log_sums)
        ctx.number_format = number_format
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, labels, log_sums = ctx.saved_tensors
        to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        with torch.autocast(hidden.device.type, enabled=False):
            rounded = weight.to(ctx.number_format or weight.dtype)
            for rows in _pieces(hidden, weight):
                part = hidden[rows].to(rounded.dtype)
                shares = _product(part, rounded).sub_(log_sums[rows, None]).exp_()
                shares.mul_(gradient[rows, None])
                shares.scatter_add_(1, labels[rows, None], -gradient[rows, None])  # one place of each row: no race
                to_logits = shares.to(rounded.dtype)
                if to_hidden is not None:
                    to_hidden[rows] = to_logits @ rounded.T
                if to_weight is not None:
                    _add_product(to_weight, part.T, to_logits)
        return to_hidden, to_weight, None, None


def _pieces(hidden: Tensor, weight: Tensor) -> list[slice]:
    logits = LOGITS if hidden.device.type == "cpu" else ON_DEVICE * LOGITS
    size, tokens = max(1, logits // weight.shape[1]), len(hidden)
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Multiply, with all digits of the sums: matrix units of CUDA add in float32 and can hand that out."""
    if one.dtype == _exact(one.dtype):
        return one @ other
    if one.device.type == "cuda":
        found: Tensor = torch.mm(one, other, out_dtype=torch.float32)
        return found
    return (one @ other).float()


def _add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    if one.dtype == total.dtype:
        torch.addmm(total, one, other, out=total)
    else:
        total.add_(_product(one, other))
