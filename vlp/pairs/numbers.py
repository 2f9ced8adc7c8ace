"""Numbers that terms can compute with: wide enough, and finite."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from vlp.ground.types import Embeddings


def all_finite(embeddings: Embeddings) -> Bool[Tensor, ""]:
    """Say whether all numbers are; a sum is NaN or Inf where one of them is, and needs no memory."""
    sums = [at_least_float32(numbers.detach()).sum().isfinite() for numbers in embeddings.numbers()]
    return torch.stack(sums).all()


def harmless(numbers: Tensor) -> Tensor:
    """Replace what is not finite, before it is sorted, counted or becomes an index; gradients pass."""
    return numbers.nan_to_num(0.0, 0.0, 0.0)


def at_least_float32(values: Tensor) -> Tensor:
    """Widen half precision, whose products with themselves keep two digits only."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
