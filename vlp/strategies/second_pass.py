"""What was made of a micro-batch in its first pass, which has no gradients, for its second one, which has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlp.ground.types import Batch


class SecondPass:
    """Keeps tensors until their micro-batch comes again; where there is only one pass, nothing is kept."""

    def __init__(self) -> None:
        self._kept: list[tuple[Batch, Tensor]] = []

    def forget(self) -> None:
        """Begin anew with another batch."""
        self._kept = []

    def __call__(self, batch: Batch, make: Callable[[], Tensor]) -> Tensor:
        """Return what was made of this very micro-batch, once, or make it."""
        for place, (seen, found) in enumerate(self._kept):
            if seen is batch:
                del self._kept[place]
                return found
        found = make()
        if not torch.is_grad_enabled():
            self._kept.append((batch, found))
        return found
