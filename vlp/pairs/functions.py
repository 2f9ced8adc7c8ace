"""Functions of one number that requests carry: of a logit, or of the product of two reference features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pointwise:
    """A function of one logit and its derivative; either may write its result into its argument."""

    name: str
    value: Function
    slope: Function


def _softplus(logits: Tensor) -> Tensor:
    """Return log(1 + exp(x)), all its digits, without log1p, which costs as much as a tile's product.

    With w = 1 + u as it was rounded, log(1 + u) = log(w) - ((w - 1) - u) / w.
    """
    small = logits.abs().neg_().exp_()
    rounded = small + 1
    excess = (rounded - 1).sub_(small).div_(rounded)
    return logits.clamp_(min=0).add_(rounded.log_().sub_(excess))


SOFTPLUS = Pointwise(name="softplus", value=_softplus, slope=lambda logits: logits.sigmoid_())


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


def given(of: str) -> Kernel:
    """Return the products themselves as log-weights: any low-rank bias."""
    return Kernel("given", 1.0, lambda products: products, None, of)
