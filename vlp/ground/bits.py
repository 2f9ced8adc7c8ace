"""One number that depends on every bit of some tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vlp.ground import dist

MODULUS = 2**31 - 1  # a checksum below it is exact in every number format that logs use
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensors: Iterable[Tensor]) -> Tensor:
    """Return one whole number, on the device, that depends on every bit of the tensors and on their order.

    Of a sharded tensor, the part of this process counts.
    """
    sums = []
    for tensor in tensors:
        local = dist.own_part(tensor.detach())
        words = local.contiguous().view(WORDS[local.element_size()])
        sums.append(words.sum(dtype=torch.int64) % MODULUS)
    if not sums:
        return torch.zeros((), dtype=torch.int64)
    total = torch.stack(sums)
    places = torch.arange(1, len(sums) + 1, device=total.device)
    return (total * places % MODULUS).sum() % MODULUS
