"""What a pass keeps for its gradients: counted, and held to a budget on the CPU, which has no limit of its own."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class OverBudgetError(torch.OutOfMemoryError):
    """More would be kept than the budget allows."""


class Kept:
    """A tensor that a graph holds."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Tensor):
        self.value = value


class KeptBytes(saved_tensors_hooks):
    """A context in which graphs keep no more than a budget, at any time; what several of them hold counts once.

    Args:
        budget: Bytes.
        beside: Tensors that are there anyway, such as weights.

    Raises:
        OverBudgetError: In the operation that would keep more.
    """

    def __init__(self, budget: float, beside: Iterable[Tensor] = ()):
        super().__init__(self._keep, lambda kept: kept.value)
        self.budget = budget
        self.bytes = 0
        self._beside = {_place(value) for value in beside}
        self._holders: Counter[int] = Counter()

    def _keep(self, value: Tensor) -> Kept:
        kept, place = Kept(value), _place(value)
        if place not in self._beside:
            size = value.untyped_storage().nbytes()
            self.bytes += 0 if self._holders[place] else size
            self._holders[place] += 1
            weakref.finalize(kept, self._release, place, size)
            if self.bytes > self.budget:
                raise OverBudgetError(f"{self.bytes:,} bytes kept for the gradients, of {max(0, self.budget):,.0f}")
        return kept

    def _release(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            self.bytes -= size


def _place(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)  # which tensors without content have too
