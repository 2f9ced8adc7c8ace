"""How each kind of request reads a tile: what it adds up going forward, what it sends back.

A statistic serves every request that differs only in its axis, so rows and columns share one exponential.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from vlp.pairs.requests import LSE, MAP, WMEAN, Axis, Mask, Pointwise, Request
from vlp.pairs.tiles import Rectangle, Tile

Vectors = dict[Axis, Tensor]


class Statistic(Protocol):
    """One sum over tiles.

    Args:
        requests: The requests it answers, by axis.
        factor: Its scale: times the model's when `learned`.
        biased: Whether the model's bias is part of its logits.
    """

    requests: dict[Axis, Request]
    factor: float
    learned: bool
    biased: bool

    def begin(self, whole: Rectangle, axes: Iterable[Axis], bound: float | None, /) -> None:
        """Clear the sums; `bound` limits the size of every logit where it is known without waiting."""

    def add(self, tile: Tile, logits: Tensor) -> None:
        """Add a tile to the sums; may overwrite `logits`."""

    def trusted(self) -> bool:
        """Whether nothing overflowed or vanished; if not, the walk is repeated with no bound."""

    def results(self) -> Vectors:
        """Return what was added up, one number per row or column."""

    def memory(self) -> Vectors:
        """Return what `load` needs to see again, one number per row or column."""

    def load(self, memory: Vectors, gradients: Vectors, bound: float | None, /) -> None:
        """Prepare `weigh` from the memory and the gradients of the results, both of the whole batch."""

    def weigh(self, tile: Tile, logits: Tensor) -> None:
        """Turn `logits` into the derivative of the loss with respect to them."""


class LogSumExp:
    """Sums of exponentials.

    With a bound, one exponential with one shift serves rows and columns; sums too small to be exact are noticed.
    Without, every row and column keeps its own maximum.
    """

    biased = False

    def __init__(self, request: LSE):
        self.requests: dict[Axis, Request] = {}
        self.learned = request.fixed_scale is None
        self.factor = request.factor if request.fixed_scale is None else request.fixed_scale
        self._mask: Mask = request.mask
        self._reference = request.reference
        self._shift: float | None = None

    def begin(self, whole: Rectangle, axes: Iterable[Axis], bound: float | None) -> None:
        self._shift = self._choose_shift(whole.rows.dtype, max(len(whole.rows), len(whole.columns)), bound)
        lengths: dict[Axis, int] = {"row": len(whole.rows), "column": len(whole.columns)}
        empty = -torch.inf if self._shift is None else 0.0
        self._sums = {axis: whole.rows.new_full((lengths[axis],), empty) for axis in axes}

    def _choose_shift(self, dtype: torch.dtype, size: int, bound: float | None) -> float | None:
        """Return what keeps the sum of `size` exponentials finite, and note the smallest exact sum."""
        if bound is None:
            return None
        info = torch.finfo(dtype)
        self._smallest = math.log(info.tiny) + math.log(size) - math.log(info.eps)
        return max(bound + abs(self._reference) - (math.log(info.max) - math.log(size) - 1), 0.0)

    def add(self, tile: Tile, logits: Tensor) -> None:
        self._complete(tile, logits)
        if self._shift is not None:
            if self._shift:
                logits.sub_(self._shift)
            logits.exp_()
        if "row" in self._sums:
            self._accumulate("row", tile.rows, logits, 1)
            if tile.mirrored:
                self._accumulate("row", tile.columns, logits, 0)
        if "column" in self._sums:
            self._accumulate("column", tile.columns, logits, 0)

    def _accumulate(self, axis: Axis, where: slice, values: Tensor, dim: int) -> None:
        sums = self._sums[axis][where]
        if self._shift is None:
            torch.logaddexp(sums, torch.logsumexp(values, dim), out=sums)
        else:
            sums.add_(values.sum(dim))

    def _complete(self, tile: Tile, logits: Tensor) -> None:
        if self._reference:
            logits.add_(tile.reference(), alpha=self._reference)
        tile.hide(logits, self._mask)

    def trusted(self) -> bool:
        if self._shift is None:
            return True
        return all(bool((sums > math.exp(self._smallest)).all()) for sums in self._sums.values())

    def results(self) -> Vectors:
        if self._shift is None:
            return self._sums
        return {axis: sums.log().add_(self._shift) for axis, sums in self._sums.items()}

    def memory(self) -> Vectors:
        return self.results()

    def load(self, memory: Vectors, gradients: Vectors, bound: float | None) -> None:
        first = next(iter(memory.values()))
        self._shift = self._choose_shift(first.dtype, len(first), bound)
        filled = {axis: value != -torch.inf for axis, value in memory.items()}
        if self._shift is not None:
            limit = self._shift + self._smallest
            if not all(bool((value[filled[axis]] > limit).all()) for axis, value in memory.items()):
                self._shift = None
        if self._shift is None:
            self._levels = {axis: value.where(filled[axis], 0) for axis, value in memory.items()}
            self._weights = gradients
            return
        self._weights = {
            axis: (gradients[axis] * (self._shift - value).exp()).where(filled[axis], 0)
            for axis, value in memory.items()
        }

    def weigh(self, tile: Tile, logits: Tensor) -> None:
        self._complete(tile, logits)
        if self._shift is None:
            self._weigh_each(tile, logits)
            return
        if self._shift:
            logits.sub_(self._shift)
        logits.exp_().mul_(_outer_sum(tile, self._weights))

    def _weigh_each(self, tile: Tile, logits: Tensor) -> None:
        total = tile.buffer("total").zero_()
        softmax = tile.buffer("softmax")
        for axis in self._weights:
            level, weight = (_along(tile, axis, vectors[axis]) for vectors in (self._levels, self._weights))
            total.add_(torch.sub(logits, level, out=softmax).exp_().mul_(weight))
        logits.copy_(total)


class PointwiseSum:
    """Row sums of a pointwise function."""

    factor = 1.0
    learned = True
    biased = True

    def __init__(self, request: MAP, bias: Tensor):
        self.requests: dict[Axis, Request] = {}
        self._function: Pointwise = request.function
        self._mask: Mask = request.mask
        self._bias = bias

    def begin(self, whole: Rectangle, _axes: Iterable[Axis], _bound: float | None) -> None:
        self._sums = whole.rows.new_zeros(len(whole.rows))

    def add(self, tile: Tile, logits: Tensor) -> None:
        values = self._function.value(tile.hide(logits.add_(self._bias), self._mask))
        self._sums[tile.rows].add_(values.sum(1))
        if tile.mirrored:
            self._sums[tile.columns].add_(values.sum(0))

    def trusted(self) -> bool:
        return True

    def results(self) -> Vectors:
        return {"row": self._sums}

    def memory(self) -> Vectors:
        return self.results()

    def load(self, _memory: Vectors, gradients: Vectors, _bound: float | None) -> None:
        self._weights = gradients

    def weigh(self, tile: Tile, logits: Tensor) -> None:
        slope = self._function.slope(tile.hide(logits.add_(self._bias), self._mask))
        torch.mul(slope, _outer_sum(tile, self._weights), out=logits)


class KernelMean:
    """Means weighted by a kernel of the reference features; an anchor's own weight is 1, so no mean is empty."""

    factor = 1.0
    learned = True
    biased = False

    def __init__(self, request: WMEAN):
        self.requests: dict[Axis, Request] = {}
        self._inverse = 1.0 / request.kernel_temperature

    def _kernel(self, tile: Tile) -> Tensor:
        return tile.reference().sub_(1).mul_(self._inverse).exp_()

    def begin(self, whole: Rectangle, axes: Iterable[Axis], _bound: float | None) -> None:
        lengths: dict[Axis, int] = {"row": len(whole.rows), "column": len(whole.columns)}
        self._sums = {axis: whole.rows.new_zeros(lengths[axis]) for axis in axes}
        self._totals = {axis: whole.rows.new_zeros(lengths[axis]) for axis in axes}

    def add(self, tile: Tile, logits: Tensor) -> None:
        kernel = self._kernel(tile)
        logits.mul_(kernel)
        if "row" in self._sums:
            self._accumulate("row", tile.rows, logits, kernel, 1)
            if tile.mirrored:
                self._accumulate("row", tile.columns, logits, kernel, 0)
        if "column" in self._sums:
            self._accumulate("column", tile.columns, logits, kernel, 0)

    def _accumulate(self, axis: Axis, where: slice, weighted: Tensor, kernel: Tensor, dim: int) -> None:
        self._sums[axis][where].add_(weighted.sum(dim))
        self._totals[axis][where].add_(kernel.sum(dim))

    def trusted(self) -> bool:
        return True

    def results(self) -> Vectors:
        return {axis: sums / self._totals[axis] for axis, sums in self._sums.items()}

    def memory(self) -> Vectors:
        return self._totals

    def load(self, memory: Vectors, gradients: Vectors, _bound: float | None) -> None:
        self._weights = {axis: gradients[axis] / total for axis, total in memory.items()}

    def weigh(self, tile: Tile, logits: Tensor) -> None:
        torch.mul(self._kernel(tile), _outer_sum(tile, self._weights), out=logits)


def plan_statistics(requests: Iterable[Request], bias: Tensor) -> list[Statistic]:
    """Group requests that share their exponentials; the model's scale first, so that its gradient is one product."""
    groups: dict[Request, Statistic] = {}
    for request in requests:
        axis: Axis = "row" if isinstance(request, MAP) else request.axis
        key = request if isinstance(request, MAP) else replace(request, axis="row")
        if key not in groups:
            groups[key] = _statistic(request, bias)
        groups[key].requests[axis] = request
    return sorted(groups.values(), key=lambda statistic: not statistic.learned)


def _statistic(request: Request, bias: Tensor) -> Statistic:
    if isinstance(request, LSE):
        return LogSumExp(request)
    if isinstance(request, MAP):
        return PointwiseSum(request, bias)
    return KernelMean(request)


def _along(tile: Tile, axis: Axis, vector: Tensor) -> Tensor:
    return vector[tile.batch_rows, None] if axis == "row" else vector[None, tile.batch_columns]


def _outer_sum(tile: Tile, vectors: Vectors) -> Tensor:
    parts = [_along(tile, axis, vector) for axis, vector in vectors.items()]
    return parts[0] if len(parts) == 1 else torch.add(parts[0], parts[1], out=tile.buffer("total"))
