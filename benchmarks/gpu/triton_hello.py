"""The smallest Triton kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 128


@triton.jit
def add_kernel(left, right, total, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add two vectors."""
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < size
    tl.store(total + place, tl.load(left + place, mask=inside) + tl.load(right + place, mask=inside), mask=inside)


def add(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the sum."""
    total = torch.empty_like(left)
    add_kernel[(-(-len(left) // BLOCK),)](left, right, total, len(left), block=BLOCK)
    return total
