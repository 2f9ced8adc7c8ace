"""Functions of one number that requests carry: of a logit, or of the product of two reference features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pointwise:
    """A function of one logit and its derivative; any of these may write its result into its argument.

    Args:
        row_sums: Returns the sums of the values along rows, and turns its first argument into the derivatives; the
            second is memory of the same shape to work in.
    """

    name: str
    value: Function
    slope: Function
    row_sums: Callable[[Tensor, Tensor], Tensor]


def _softplus(logits: Tensor) -> Tensor:
    """Return log(1 + exp(x)), all its digits, without log1p, which costs as much as a tile's product.

    With w = 1 + u as it was rounded, log(1 + u) = log(w) - ((w - 1) - u) / w.
    """
    small = logits.abs().neg_().exp_()
    rounded = small + 1
    excess = (rounded - 1).sub_(small).div_(rounded)
    return logits.clamp_(min=0).add_(rounded.log_().sub_(excess))


FAR_BELOW = -4.0  # the fifth power of a sigmoid from there on is lost in float32


def _softplus_row_sums(logits: Tensor, work: Tensor) -> Tensor:
    """Return sums of log(1 + exp(x)) = -log(1 - s) = s + s^2/2 + s^3/3 + ... with s = sigmoid(x), the slope.

    A sigmoid costs a tenth of a logarithm, and most wrong pairs lie far below zero; other tiles take the long way.
    """
    if logits.dtype != torch.float32 or float(logits.amax()) > FAR_BELOW:
        sums = _softplus(work.copy_(logits)).sum(1)
        logits.sigmoid_()
        return sums
    share = logits.sigmoid_()
    square = torch.mul(share, share, out=work)
    sums = share.sum(1).add_(square.sum(1), alpha=1 / 2)
    sums.add_(torch.linalg.vecdot(square, share), alpha=1 / 3)
    return sums.add_(torch.linalg.vector_norm(square, dim=1).square_(), alpha=1 / 4)


SOFTPLUS = Pointwise(
    name="softplus", value=_softplus, slope=lambda logits: logits.sigmoid_(), row_sums=_softplus_row_sums
)


@dataclass(frozen=True)
class Kernel:
    """The log-weight of an entry, a function of the product of its two reference features.

    Args:
        log_weight: Writes its result into its argument.
        largest: What no log-weight of a cosine exceeds; None where products are no cosines.
        of: Name of the reference features.
    """

    name: str
    parameter: float
    log_weight: Function = field(compare=False)
    largest: float | None = 0.0
    of: str = "reference"


def tilt(slope: float, of: str = "reference") -> Kernel:
    """Return a log-weight of `slope` times the cosine."""
    return Kernel("tilt", slope, lambda cosines: cosines.mul_(slope), abs(slope), of)


def nearness(temperature: float, of: str = "reference") -> Kernel:
    """Return the weight exp((cosine - 1) / temperature): small temperatures keep near-duplicates only."""
    return Kernel("nearness", temperature, lambda cosines: cosines.sub_(1).div_(temperature), 0.0, of)


def below(threshold: float, of: str = "reference") -> Kernel:
    """Return the weight 1 below a cosine and 0 from there on."""

    def log_weight(cosines: Tensor) -> Tensor:
        far = cosines < threshold
        return cosines.fill_(-math.inf).masked_fill_(far, 0.0)

    return Kernel("below", threshold, log_weight, 0.0, of)


def fade(power: float, of: str = "reference") -> Kernel:
    """Return the weight 1 - max(0, cosine) ** power."""
    return Kernel("fade", power, lambda cosines: cosines.clamp_(0, 1).pow_(power).neg_().log1p_(), 0.0, of)


def affinity(of: str = "reference") -> Kernel:
    """Return the weight (1 + cosine) / 2."""
    return Kernel("affinity", 1.0, lambda cosines: cosines.add_(1).div_(2).clamp_(min=0).log_(), 0.0, of)


def given(of: str) -> Kernel:
    """Return the products themselves as log-weights: any low-rank bias."""
    return Kernel("given", 1.0, lambda products: products, None, of)
