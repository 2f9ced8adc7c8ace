"""Statistics that are plain sums: pointwise functions, kernel weights, histograms, and the largest entries."""

from __future__ import annotations

import torch
from torch import Tensor

from vlp.ground import dist
from vlp.pairs.engine.statistic import Vectors, outer_sum, places, shared, zeros
from vlp.pairs.engine.tiles import Rectangle, Tile
from vlp.pairs.functions import Pointwise
from vlp.pairs.requests import HIST, KMEAN, MAP, TOPK, WSUM, Axis, Request


class Plain:
    """What statistics without exponentials of logits have in common."""

    learned = True
    factor = 1.0
    biased = False
    differentiable = True
    per_sample = True

    def __init__(self) -> None:
        self.requests: dict[Axis, Request] = {}

    def is_exact(self) -> bool:
        """Never overflows."""
        return True


class PointwiseSum(Plain):
    """Row sums of a pointwise function."""

    biased = True

    def __init__(self, request: MAP, bias: Tensor):
        super().__init__()
        self._function: Pointwise = request.function
        self._mask = request.mask
        self._bias = bias

    def begin_forward(self, whole: Rectangle, _bound: float | None) -> None:
        self._sums = {"row": zeros(whole, "row")}
        self._is_shared = "row" in shared(whole)

    def add(self, tile: Tile, logits: Tensor) -> None:
        values = self._function.value(tile.hide(logits.add_(self._bias), self._mask))
        for _, where, dim in places(tile, self.requests):
            self._sums["row"][where].add_(values.sum(dim))

    def add_parts(self, _axis: Axis, where: slice, parts: Tensor) -> None:
        """Add what tiles found that were walked elsewhere: a row of numbers for each."""
        self._sums["row"][where].add_(parts[0].sum(0))

    def vectors_back(self, _saved: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradients."""
        return gradient[None]

    def add_and_differentiate(self, tile: Tile, logits: Tensor) -> None:
        """Add a tile to the sums, and turn its logits into the derivative of each entry with respect to them."""
        logits = tile.hide(logits.add_(self._bias), self._mask)
        self._sums["row"][tile.rows].add_(self._function.row_sums(logits, tile.buffer("work")))

    def merge_processes(self, group: dist.Group) -> None:
        if self._is_shared:
            self._sums["row"] = dist.all_reduce_sum(self._sums["row"], group)

    def results(self) -> Vectors:
        return {"row": self._sums["row"]}

    def saved_for_backward(self) -> Vectors:
        return {"row": self._sums["row"][:, None]}

    def begin_backward(self, _saved: Vectors, gradients: Vectors, _bound: float | None, _group: dist.Group) -> None:
        self._gradients = gradients

    def to_derivative(self, tile: Tile, logits: Tensor) -> None:
        slope = self._function.slope(tile.hide(logits.add_(self._bias), self._mask))
        torch.mul(slope, outer_sum(tile, self._gradients), out=logits)


class KernelSum(Plain):
    """Sums weighted by a kernel of the reference features; means where the weights are divided by their total."""

    def __init__(self, request: KMEAN | WSUM):
        super().__init__()
        self._kernel = request.kernel
        self._mask = request.mask
        self._is_mean = isinstance(request, KMEAN)

    def begin_forward(self, whole: Rectangle, _bound: float | None) -> None:
        self._sums = {axis: zeros(whole, axis) for axis in self.requests}
        self._totals = {axis: zeros(whole, axis, 0.0 if self._is_mean else 1.0) for axis in self.requests}
        self._shared = [axis for axis in self._sums if axis in shared(whole)]

    def add(self, tile: Tile, logits: Tensor) -> None:
        weights = self._weights_of(tile)
        logits.mul_(weights)
        for axis, where, dim in places(tile, self._sums):
            self._sums[axis][where].add_(logits.sum(dim))
            if self._is_mean:
                self._totals[axis][where].add_(weights.sum(dim))

    def add_parts(self, axis: Axis, where: slice, parts: Tensor) -> None:
        """Add what tiles found that were walked elsewhere: a row of sums for each, and one of their weights."""
        sums, totals = parts.sum(1)
        self._sums[axis][where].add_(sums)
        if self._is_mean:
            self._totals[axis][where].add_(totals)

    def vectors_back(self, saved: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradients of the sums."""
        return (gradient / saved[:, 0])[None]

    def merge_processes(self, group: dist.Group) -> None:
        for axis in self._shared:
            self._sums[axis] = dist.all_reduce_sum(self._sums[axis], group)
            if self._is_mean:
                self._totals[axis] = dist.all_reduce_sum(self._totals[axis], group)

    def results(self) -> Vectors:
        return {axis: sums / self._totals[axis] for axis, sums in self._sums.items()}

    def saved_for_backward(self) -> Vectors:
        return {axis: total[:, None] for axis, total in self._totals.items()}

    def begin_backward(self, saved: Vectors, gradients: Vectors, _bound: float | None, _group: dist.Group) -> None:
        self._gradients = {axis: gradients[axis] / rows[:, 0] for axis, rows in saved.items()}

    def to_derivative(self, tile: Tile, logits: Tensor) -> None:
        torch.mul(self._weights_of(tile), outer_sum(tile, self._gradients), out=logits)

    def _weights_of(self, tile: Tile) -> Tensor:
        return tile.hide(tile.log_weights(self._kernel), self._mask).exp_()


class TopK(Plain):
    """The largest entries of rows and columns: their positions in the whole batch."""

    differentiable = False

    def __init__(self, request: TOPK):
        super().__init__()
        self._k = request.k
        self._mask = request.mask

    def begin_forward(self, whole: Rectangle, _bound: float | None) -> None:
        self._row_start = whole.row_start
        self._values = {axis: zeros(whole, axis, -torch.inf)[:, None].repeat(1, self._k) for axis in self.requests}
        self._positions = {axis: torch.full_like(v, -1, dtype=torch.int64) for axis, v in self._values.items()}
        self._shared = [axis for axis in self._values if axis in shared(whole)]

    def add(self, tile: Tile, logits: Tensor) -> None:
        tile.hide(logits, self._mask)
        for axis, where, dim in places(tile, self._values):
            candidates = logits if dim == 1 else logits.t()
            values, positions = candidates.topk(min(self._k, candidates.shape[1]), dim=1)
            positions += tile.columns.start if dim == 1 else tile.batch_rows.start
            self._merge(axis, where, values, positions)

    def _merge(self, axis: Axis, where: slice, values: Tensor, positions: Tensor) -> None:
        kept, places_kept = self._values[axis][where], self._positions[axis][where]
        together = torch.cat([kept, values], dim=1)
        best, order = together.topk(self._k, dim=1)
        places_kept.copy_(torch.cat([places_kept, positions], dim=1).gather(1, order))
        kept.copy_(best)

    def merge_processes(self, group: dist.Group) -> None:
        if dist.world_size(group) == 1:
            return
        for axis in self._shared:
            values, positions = self._values[axis], self._positions[axis]
            everyones = dist.all_gather_rows(values, group).split(len(values))
            everyones_positions = dist.all_gather_rows(positions, group).split(len(values))
            self._values[axis], order = torch.cat(everyones, dim=1).topk(self._k, dim=1)
            self._positions[axis] = torch.cat(everyones_positions, dim=1).gather(1, order)

    def results(self) -> Vectors:
        return {axis: at.where(self._values[axis] != -torch.inf, -1) for axis, at in self._positions.items()}

    def saved_for_backward(self) -> Vectors:
        return {}

    def begin_backward(self, _saved: Vectors, _gradients: Vectors, _bound: float | None, _group: dist.Group) -> None:
        raise AssertionError("positions carry no gradient")

    def to_derivative(self, _tile: Tile, _logits: Tensor) -> None:
        raise AssertionError("positions carry no gradient")


class Histogram(Plain):
    """Counts of cosines on a grid, each shared by its two neighbours."""

    learned = False
    per_sample = False

    def __init__(self, request: HIST):
        super().__init__()
        self._num_bins = request.num_bins
        self._low = request.low
        self._per_unit = (request.num_bins - 1) / (request.high - request.low)
        self._mask = request.mask

    def begin_forward(self, whole: Rectangle, _bound: float | None) -> None:
        self._dtype = whole.rows.dtype
        self._counts = whole.rows.new_zeros(self._num_bins, dtype=torch.float64)

    def _place(self, tile: Tile, cosines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the grid point below each entry, the share of the next one, and which entries are masked."""
        hidden = tile.hide(cosines, self._mask) == -torch.inf
        steps = cosines.sub_(self._low).mul_(self._per_unit).clamp_(0, self._num_bins - 1)
        # a NaN has no place, so it is counted in the first bin, with a share that is NaN
        below = steps.nan_to_num(0.0).to(torch.int32).clamp_(max=self._num_bins - 2)
        return below, steps.sub_(below), hidden

    def add(self, tile: Tile, cosines: Tensor) -> None:
        below, share, hidden = self._place(tile, cosines)
        # neither a choice of entries, for which CUDA would wait, nor bincount, which adds up in any order there
        counts = cosines.new_zeros(2, self._num_bins)
        for row, shares in enumerate(((1 - share).masked_fill_(hidden, 0), share.masked_fill_(hidden, 0))):
            counts[row].index_add_(0, (below + row).flatten(), shares.flatten())
        self._counts += counts.sum(0) * (2 if tile.mirrored else 1)

    def merge_processes(self, group: dist.Group) -> None:
        self._counts = dist.all_reduce_sum(self._counts, group)

    def results(self) -> Vectors:
        return {"row": self._counts.to(self._dtype)}

    def saved_for_backward(self) -> Vectors:
        return {}

    def begin_backward(self, _saved: Vectors, gradients: Vectors, _bound: float | None, group: dist.Group) -> None:
        self._slopes = dist.all_reduce_sum(gradients["row"], group).diff() * self._per_unit

    def to_derivative(self, tile: Tile, cosines: Tensor) -> None:
        outside = (cosines < self._low) | (cosines > self._low + (self._num_bins - 1) / self._per_unit)
        below, _, hidden = self._place(tile, cosines)
        # a symmetric walk expects the sum of an entry's and its mirror image's derivative
        times = 2 if tile.is_symmetric else 1
        torch.mul(self._slopes[below], times, out=cosines).masked_fill_(hidden | outside, 0)
