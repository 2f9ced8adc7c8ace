"""The weighted mean of weights that need not be in memory together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vlp.ground.types import RecipeError


class WeightAverage:
    """Add weights one after the other; real numbers are summed in float64, so that equal ones stay what they are.

    The scale of the logits is averaged as its logarithm, as it is trained, running means and variances of batch norm
    as they are. Whole numbers are those of the first.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._sums: dict[str, Tensor] = {}
        self._first: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, weights: Mapping[str, Tensor], share: float = 1.0, *, name: str) -> None:
        """Add the weights of one model.

        Args:
            weights: Of the names and shapes of the first.
            share: How much it counts, relative to the others.
            name: What to call the model.

        Raises:
            RecipeError: A weight is not finite.
        """
        for key, value in weights.items():
            if not value.is_floating_point():
                self._first.setdefault(key, value.detach().cpu().clone())
                continue
            self._first.setdefault(key, torch.empty(0, dtype=value.dtype))
            part = _in_float64(value)
            if not torch.isfinite(part).all():
                raise RecipeError(f"'{name}': {key} is not finite: leave the model out")
            before = self._sums.get(key)
            self._sums[key] = part * share if before is None else before.add_(part, alpha=share)
        self.total += share

    @torch.no_grad()
    def mean(self) -> dict[str, Tensor]:
        """Return the mean, in the types of the first model."""
        return self._with({}, 0.0)

    @torch.no_grad()
    def mean_with(self, weights: Mapping[str, Tensor], share: float = 1.0) -> dict[str, Tensor]:
        """Return what the mean would be with one model more, which is not added."""
        return self._with(weights, share)

    def _with(self, weights: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
        found = {}
        for key, first in self._first.items():
            if key not in self._sums:
                found[key] = first.clone()
                continue
            total = self._sums[key] + _in_float64(weights[key]) * share if weights else self._sums[key]
            found[key] = (total / (self.total + share)).to(first.dtype)
        return found


def _in_float64(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float64)


def between(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the weights on the straight line from a start to an end.

    Args:
        share: Of the end: 0 is the start and 1 the end, bit for bit.
    """
    line = WeightAverage()
    line.add(start, 1 - share, name="the start")
    line.add(end, share, name="the end")
    return line.mean()
