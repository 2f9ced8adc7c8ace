"""Statistics made of exponentials: log-sum-exp and the softmax-weighted mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlp.ground import dist
from vlp.pairs.engine.statistic import Vectors, along, outer_sum, places, shared, zeros
from vlp.pairs.engine.tiles import Rectangle, Tile
from vlp.pairs.requests import LSE, WMEAN, Axis, Request


class Individual:
    """Scales of single rows or columns, where a request asks for them.

    Args:
        axis: None where the scale is the same everywhere.
    """

    def __init__(self, request: LSE | WMEAN):
        self._axis: Axis | None = request.axis if request.individual else None
        self._scales: Tensor | None = None

    @property
    def is_on(self) -> bool:
        """Whether every row or column has its own scale."""
        return self._axis is not None

    def begin(self, whole: Rectangle) -> None:
        """Pick the scales of the walk."""
        if self._axis is None:
            return
        side = whole.row_side if self._axis == "row" else whole.column_side
        assert side.scales is not None, "an individual request needs scales"
        start = whole.row_start if self._axis == "row" else 0
        size = len(whole.rows if self._axis == "row" else whole.columns)
        self._scales = side.scales[start : start + size].to(whole.rows.dtype)

    def multiply(self, tile: Tile, values: Tensor) -> Tensor:
        """Multiply in place: cosines become logits, derivatives with respect to logits those to cosines."""
        if self._axis is not None:
            assert self._scales is not None
            values.mul_(along(tile, self._axis, self._scales))
        return values


def scale_of(request: LSE | WMEAN) -> tuple[bool, float]:
    """Return whether the model's scale takes part, and the factor."""
    if request.individual:
        return False, 1.0
    return (True, request.factor) if request.fixed_scale is None else (False, request.fixed_scale)


class LogSumExp:
    """Sums of exponentials.

    With a bound, one exponential with one shift serves rows and columns; sums too small to be exact are noticed.
    Without, every row and column keeps its own maximum. Going back the shift is chosen anew, for by then all sums are
    known; a statistic at the same shift as before can use what `add` left of its tiles.
    """

    biased = False
    differentiable = True
    per_sample = True

    def __init__(self, request: LSE):
        self.requests: dict[Axis, Request] = {}
        self.learned, self.factor = scale_of(request)
        self._individual = Individual(request)
        self._mask = request.mask
        self._kernel = request.kernel
        self._shift: float | None = None
        self._shift_back: float | None = None

    @property
    def shift(self) -> float | None:
        """What `add` subtracts before it turns logits into their exponentials in place; None where it does not."""
        return self._shift

    @property
    def shift_back(self) -> float | None:
        """What `to_derivative` subtracts; None where each row and column has a level of its own."""
        return self._shift_back

    def begin_forward(self, whole: Rectangle, bound: float | None) -> None:
        self._individual.begin(whole)
        size = max(len(whole.rows), len(whole.columns))
        self._shift = self._choose_shift(whole.rows.dtype, size, bound)
        self._smallest = math.exp(_log_of_smallest(whole.rows.dtype, size)) if self._shift is not None else 0.0
        empty = -torch.inf if self._shift is None else 0.0
        self._sums = {axis: zeros(whole, axis, empty) for axis in self.requests}
        self._shared = [axis for axis in self._sums if axis in shared(whole)]

    def _choose_shift(self, dtype: torch.dtype, size: int, bound: float | None) -> float | None:
        """Return what keeps the sum of `size` exponentials finite; None where nothing is known to."""
        extra = 0.0 if self._kernel is None else self._kernel.largest
        if bound is None or extra is None or self._individual.is_on:
            return None
        return max(bound + extra - (math.log(torch.finfo(dtype).max) - math.log(size) - 1), 0.0)

    def add(self, tile: Tile, logits: Tensor) -> None:
        self._add_kernel_and_hide(tile, logits)
        if self._shift is not None:
            _exp_of_shifted(logits, self._shift)
        for axis, where, dim in places(tile, self._sums):
            sums = self._sums[axis][where]
            if self._shift is None:
                torch.logaddexp(sums, torch.logsumexp(logits, dim), out=sums)
            else:
                sums.add_(logits.sum(dim))

    def add_parts(self, axis: Axis, where: slice, parts: Tensor) -> None:
        """Add what tiles found that were walked elsewhere without a shift: a row of log-sum-exps for each."""
        sums = self._sums[axis][where]
        torch.logaddexp(sums, parts[0].logsumexp(0), out=sums)

    def vectors_back(self, saved: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradients and the log-sum-exps; what is empty does not move."""
        level = saved[:, 0]
        return torch.stack([gradient.where(level != -torch.inf, 0), _finite(level)])

    def _add_kernel_and_hide(self, tile: Tile, logits: Tensor) -> None:
        self._individual.multiply(tile, logits)
        if self._kernel is not None:
            logits.add_(tile.log_weights(self._kernel))
        tile.hide(logits, self._mask)

    def merge_processes(self, group: dist.Group) -> None:
        reduce = dist.all_reduce_log_sum_exp if self._shift is None else dist.all_reduce_sum
        for axis in self._shared:
            self._sums[axis] = reduce(self._sums[axis], group)

    def is_exact(self) -> bool:
        return self._shift is None or all(bool((sums > self._smallest).all()) for sums in self._sums.values())

    def results(self) -> Vectors:
        if self._shift is None:
            return self._sums
        return {axis: sums.log().add_(self._shift) for axis, sums in self._sums.items()}

    def saved_for_backward(self) -> Vectors:
        return {axis: values[:, None] for axis, values in self.results().items()}

    def begin_backward(self, saved: Vectors, gradients: Vectors, bound: float | None, _group: dist.Group) -> None:
        levels = {axis: rows[:, 0] for axis, rows in saved.items()}
        filled = {axis: level != -torch.inf for axis, level in levels.items()}
        self._shift_back = self._choose_shift_back(levels, filled, bound)
        if self._shift_back is None:
            self._levels = {axis: level.where(filled[axis], 0) for axis, level in levels.items()}
            # nothing moves an empty sum, whatever arrives: 0 times NaN would be NaN
            self._weights = {axis: gradients[axis].where(filled[axis], 0) for axis in levels}
            return
        self._weights = {
            axis: (gradients[axis] * (self._shift_back - level).exp()).where(filled[axis], 0)
            for axis, level in levels.items()
        }

    def _choose_shift_back(self, levels: Vectors, filled: Vectors, bound: float | None) -> float | None:
        """Return one shift for all levels, or None where some lie so far below it that their shares would vanish."""
        size = max(len(level) for level in levels.values())
        dtype = next(iter(levels.values())).dtype
        shift = self._choose_shift(dtype, size, bound)
        if shift is None:
            return None
        limit = shift + _log_of_smallest(dtype, size)
        is_above = all(bool((level[filled[axis]] > limit).all()) for axis, level in levels.items())
        return shift if is_above else None

    def to_derivative(self, tile: Tile, logits: Tensor) -> None:
        self._add_kernel_and_hide(tile, logits)
        if self._shift_back is None:
            self._to_weighted_softmax(tile, logits)
        else:
            self.exponentials_to_derivative(tile, _exp_of_shifted(logits, self._shift_back))
        self._individual.multiply(tile, logits)

    def exponentials_to_derivative(self, tile: Tile, exponentials: Tensor) -> None:
        """Do the same with what `add` left of the logits, where `shift_back` equals `shift`."""
        exponentials.mul_(outer_sum(tile, self._weights))

    def _to_weighted_softmax(self, tile: Tile, logits: Tensor) -> None:
        total = tile.buffer("total").zero_()
        softmax = tile.buffer("softmax")
        for axis in self._weights:
            level, weight = (along(tile, axis, vectors[axis]) for vectors in (self._levels, self._weights))
            total.add_(torch.sub(logits, level, out=softmax).exp_().mul_(weight))
        logits.copy_(total)


def _log_of_smallest(dtype: torch.dtype, size: int) -> float:
    """Return the logarithm of the smallest sum of `size` exponentials whose vanished addends do not show."""
    info = torch.finfo(dtype)
    return math.log(info.tiny) + math.log(size) - math.log(info.eps)


def _exp_of_shifted(logits: Tensor, shift: float) -> Tensor:
    return (logits.sub_(shift) if shift else logits).exp_()


class SoftmaxMean:
    """Means weighted by the softmax of the values themselves, with a running maximum per row and column."""

    biased = False
    differentiable = True
    per_sample = True

    def __init__(self, request: WMEAN):
        self.requests: dict[Axis, Request] = {}
        self.learned, self.factor = scale_of(request)
        self._individual = Individual(request)
        self._mask = request.mask

    def begin_forward(self, whole: Rectangle, _bound: float | None) -> None:
        self._individual.begin(whole)
        self._levels = {axis: zeros(whole, axis, -torch.inf) for axis in self.requests}
        self._means = {axis: zeros(whole, axis) for axis in self.requests}
        self._shared = [axis for axis in self._means if axis in shared(whole)]

    def add(self, tile: Tile, logits: Tensor) -> None:
        tile.hide(self._individual.multiply(tile, logits), self._mask)
        softmax = tile.buffer("softmax")
        for axis, where, dim in places(tile, self._means):
            level = torch.logsumexp(logits, dim)
            torch.sub(logits, _finite(level).unsqueeze(dim), out=softmax).exp_()
            mean = softmax.mul_(logits).nan_to_num_(nan=0.0).sum(dim)  # a masked entry is 0 times minus infinity
            self._join(axis, where, level, mean)

    def _join(self, axis: Axis, where: slice, level: Tensor, mean: Tensor) -> None:
        before, sums = self._levels[axis][where], self._means[axis][where]
        total = torch.logaddexp(before, level)
        sums.mul_(_ratio(before, total)).add_(mean.mul_(_ratio(level, total)))
        before.copy_(total)

    def add_parts(self, axis: Axis, where: slice, parts: Tensor) -> None:
        """Add what tiles found that were walked elsewhere: a row of log-sum-exps for each, and one of means."""
        levels, means = parts
        level = levels.logsumexp(0)
        self._join(axis, where, level, (means * _ratio(levels, level)).sum(0))

    def vectors_back(self, saved: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradients, the log-sum-exps and the means; what is empty does not move."""
        level, mean = saved.unbind(1)
        return torch.stack([gradient.where(level != -torch.inf, 0), _finite(level), mean])

    def merge_processes(self, group: dist.Group) -> None:
        for axis in self._shared:
            level = self._levels[axis]
            total = dist.all_reduce_log_sum_exp(level, group)
            self._means[axis] = dist.all_reduce_sum(self._means[axis] * _ratio(level, total), group)
            self._levels[axis] = total

    def is_exact(self) -> bool:
        return True

    def results(self) -> Vectors:
        return self._means

    def saved_for_backward(self) -> Vectors:
        return {axis: torch.stack([self._levels[axis], self._means[axis]], dim=1) for axis in self._means}

    def begin_backward(self, saved: Vectors, gradients: Vectors, _bound: float | None, _group: dist.Group) -> None:
        self._saved_levels = {axis: _finite(rows[:, 0]) for axis, rows in saved.items()}
        self._saved_means = {axis: rows[:, 1] for axis, rows in saved.items()}
        self._gradients = gradients

    def to_derivative(self, tile: Tile, logits: Tensor) -> None:
        tile.hide(self._individual.multiply(tile, logits), self._mask)
        total, softmax, gap = tile.buffer("total").zero_(), tile.buffer("softmax"), tile.buffer("gap")
        for axis in self._gradients:
            level, mean, gradient = (
                along(tile, axis, vectors[axis]) for vectors in (self._saved_levels, self._saved_means, self._gradients)
            )
            torch.sub(logits, level, out=softmax).exp_()
            torch.sub(logits, mean, out=gap).add_(1).mul_(softmax).nan_to_num_(nan=0.0)
            total.addcmul_(gap, gradient.expand_as(gap))
        self._individual.multiply(tile, logits.copy_(total))


def _finite(level: Tensor) -> Tensor:
    return level.where(level != -torch.inf, 0)


def _ratio(part: Tensor, total: Tensor) -> Tensor:
    """Return exp(part - total); 0 where both are empty."""
    return (part - _finite(total)).exp()
