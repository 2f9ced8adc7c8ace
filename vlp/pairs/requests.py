"""What a term may ask of a similarity matrix, and what a matrix is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Axis = Literal["row", "column"]
Mask = Literal["none", "pair", "label"]


@dataclass(frozen=True)
class LSE:
    """Log-sum-exp of each row or column of the logits; minus infinity where everything is masked.

    Args:
        axis: Sum over the columns of a `row`, or over the rows of a `column`.
        factor: Multiplies the model's learnable scale.
        fixed_scale: Multiplies cosines instead of the model's scale; carries no gradient to it.
        mask: `pair` leaves out the diagonal, `label` every entry whose two sides share a label (the diagonal too).
        reference: Adds this multiple of the cosine of the reference features to each logit.
    """

    axis: Axis
    factor: float = 1.0
    fixed_scale: float | None = None
    mask: Mask = "none"
    reference: float = 0.0


@dataclass(frozen=True)
class Pointwise:
    """A function of one logit and its derivative; either may write its result into its argument."""

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


SOFTPLUS = Pointwise(
    name="softplus",
    value=lambda logits: torch.logaddexp(logits, logits.new_zeros(()), out=logits),
    slope=lambda logits: logits.sigmoid_(),
)


@dataclass(frozen=True)
class MAP:
    """Sum of a pointwise function along each row, at the model's scale plus the model's bias.

    Args:
        function: Must vanish at minus infinity when there is a mask.
        mask: As in `LSE`.
    """

    function: Pointwise
    mask: Mask = "none"


@dataclass(frozen=True)
class WMEAN:
    """Mean of the logits of each row or column, weighted by a kernel of the reference features.

    The weights exp((cosine of references - 1) / kernel_temperature) carry no gradient.

    Args:
        axis: As in `LSE`.
        kernel_temperature: Small values keep near-duplicates of the anchor only.
    """

    axis: Axis
    kernel_temperature: float


Request = LSE | MAP | WMEAN


@dataclass(frozen=True)
class Side:
    """One side of a similarity matrix: this process's rows with gradient, and every process's without."""

    local: Float[Tensor, "n d"]
    everyone: Float[Tensor, "b d"]


@dataclass(frozen=True)
class Block:
    """One similarity matrix; symmetric when both sides are the same object.

    Args:
        labels: Of the whole batch, for the `label` mask.
        reference: Features of the whole batch, for kernel weights and reference logits.
    """

    rows: Side
    columns: Side
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""]
    labels: Int64[Tensor, " b"] | None = None
    reference: Float[Tensor, "b r"] | None = None

    @property
    def symmetric(self) -> bool:
        """Whether rows and columns are the same embeddings."""
        return self.rows is self.columns


Stats = dict[tuple[str, Request], Tensor]
