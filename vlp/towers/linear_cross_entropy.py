"""The cross-entropy of a linear layer over a vocabulary, whose logits never exist at once."""

from __future__ import annotations

from collections.abc import Iterator
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


def number_format(device: str) -> torch.dtype | None:
    """Return what autocast computes products in on a kind of device; None where it is off."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, number_format: torch.dtype | None) -> Tensor:
        log_sums = torch.empty(len(hidden), dtype=_exact(weight.dtype), device=hidden.device)
        losses = torch.empty_like(log_sums)
        for rows, _, _, logits in _pieces(hidden, weight, number_format):
            right = logits.gather(1, labels[rows, None])[:, 0]
            largest = logits.amax(dim=1)
            sums = logits.sub_(largest[:, None]).exp_().sum(dim=1)
            log_sums[rows] = sums.log_().add_(largest)
            losses[rows] = log_sums[rows] - right
        ctx.save_for_backward(hidden, weight, labels, log_sums)
        ctx.number_format = number_format
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, labels, log_sums = ctx.saved_tensors
        to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for rows, part, rounded, logits in _pieces(hidden, weight, ctx.number_format):
            shares = logits.sub_(log_sums[rows, None]).exp_().mul_(gradient[rows, None])
            shares.scatter_add_(1, labels[rows, None], -gradient[rows, None])  # one place of each row: no race
            to_logits = shares.to(rounded.dtype)
            if to_hidden is not None:
                to_hidden[rows] = to_logits @ rounded.T
            if to_weight is not None and part.dtype == to_weight.dtype:
                torch.addmm(to_weight, part.T, to_logits, out=to_weight)
            elif to_weight is not None:
                to_weight.add_(_product(part.T, to_logits))
        return to_hidden, to_weight, None, None


def _pieces(
    hidden: Tensor, weight: Tensor, number_format: torch.dtype | None
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yield some tokens at a time: which, their states, the weights, and the logits, which the next ones overwrite."""
    logits = LOGITS if hidden.device.type == "cpu" else ON_DEVICE * LOGITS
    size, tokens = max(1, logits // weight.shape[1]), len(hidden)
    rounded = weight.to(number_format or weight.dtype)
    is_exact = rounded.dtype == _exact(rounded.dtype)
    memory = rounded.new_empty(min(size, tokens) if is_exact else 0, weight.shape[1])  # new pages cost as much as sums
    for start in range(0, tokens, size):
        rows = slice(start, min(start + size, tokens))
        part = hidden[rows].to(rounded.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            into = memory[: len(part)]
            product = torch.mm(part, rounded, out=into) if is_exact else _product(part, rounded)
        yield rows, part, rounded, product


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _product(one: Tensor, other: Tensor) -> Float32[Tensor, "r c"]:
    """Multiply matrices of half precision, with the digits of the sums where the device hands them out."""
    if one.device.type == "cuda":
        found: Tensor = torch.mm(one, other, out_dtype=torch.float32)
        return found
    return (one @ other).float()
