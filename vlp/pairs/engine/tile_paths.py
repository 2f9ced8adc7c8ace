"""Three ways over the tiles of a matrix to its sums, and from there to its gradients.

`TwoWalks` is the plain one and does for everything. A log-sum-exp alone goes by `KeptExponentials`, which differs in
what its kept tiles hold; a pointwise sum alone by `EarlyGradients`, which walks once. There are two further ways:
`FusedWalk` on CUDA, and `NestedWalk` over several widths of the same embeddings, as kernels walk them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.pairs.engine.gradients import Gradients, GradientSums, WantedGradients, sum_of_products
from vlp.pairs.engine.matrix import Matrix
from vlp.pairs.engine.plain_sums import PointwiseSum
from vlp.pairs.engine.softmax_sums import LogSumExp
from vlp.pairs.engine.statistic import Returned
from vlp.pairs.engine.tiles import KeptTiles, Rectangle, Tile


class WalkPath(Protocol):
    """One way over this process's part of a matrix: forward once, back any number of times."""

    def forward(self) -> None:
        """Add everything to the statistics, which have begun."""

    def backward(self, returned: Sequence[Returned], /) -> Gradients:
        """Return what this process's part adds to the gradients.

        Args:
            returned: To each statistic that is differentiable, in their order.
        """


class TwoWalks:
    """Compute every tile forward and again back; kept tiles hold their logits in between.

    Any statistics, together.
    """

    def __init__(self, matrix: Matrix, wanted: WantedGradients, kept: KeptTiles):
        self._matrix, self._wanted, self.kept = matrix, wanted, kept

    def forward(self) -> None:
        """Add every tile to every statistic."""
        for tile in self._matrix.scaled().tiles(keep_in=self.kept):
            add_to_all(self._matrix, tile)

    def backward(self, returned: Sequence[Returned]) -> Gradients:
        """Turn every tile into the sum of what its statistics make of it."""
        begin_backward(self._matrix, returned)
        whole = self._matrix.scaled()
        sums = GradientSums(self._matrix, whole, self._wanted)
        for tile in whole.tiles(take_from=self.kept):
            sums.add(tile, derivative_of(self._matrix, tile, sums))
        return sums.finish()


class KeptExponentials:
    """The same for a log-sum-exp alone, whose kept tiles hold its exponentials: no second one is taken.

    Going back it may want another shift than going forward; then what was kept is of no use.
    """

    def __init__(self, matrix: Matrix, wanted: WantedGradients, statistic: LogSumExp, kept: KeptTiles):
        self._matrix, self._wanted, self._statistic, self.kept = matrix, wanted, statistic, kept

    def forward(self) -> None:
        """Add every tile, and leave it as its exponentials."""
        for tile in self._matrix.scaled().tiles(keep_in=self.kept):
            self._statistic.add(tile, tile.logits)

    def backward(self, returned: Sequence[Returned]) -> Gradients:
        """Turn exponentials into derivatives where they were kept, and logits elsewhere."""
        begin_backward(self._matrix, returned)
        if self._statistic.shift_back != self._statistic.shift:
            self.kept.give_back()
        whole = self._matrix.scaled()
        sums = GradientSums(self._matrix, whole, self._wanted)
        for tile in whole.tiles(take_from=self.kept):
            if tile.was_kept:
                self._statistic.exponentials_to_derivative(tile, tile.logits)
            else:
                self._statistic.to_derivative(tile, tile.logits)
            sums.add(tile, tile.logits)
        return sums.finish()


class EarlyGradients:
    """Gradients of one pointwise sum, formed in the forward walk as if the loss were the sum of its rows.

    A mean over rows, which is what losses take of them, only scales them afterwards: three products of a whole matrix
    whatever its size, and no tile is needed twice. A loss that weighs rows differently takes a second walk.

    Args:
        whole: What is walked, its rows at the base scale.
    """

    def __init__(self, matrix: Matrix, whole: Rectangle, wanted: WantedGradients, statistic: PointwiseSum):
        self._matrix, self._whole, self._wanted, self._statistic = matrix, whole, wanted, statistic
        self._rows = torch.zeros_like(whole.rows)
        self._columns = torch.zeros_like(whole.columns) if wanted.columns else None
        self._slopes = whole.rows.new_zeros(len(whole.rows))

    def forward(self) -> None:
        """Add every tile to the sum and to the gradients."""
        whole = self._whole
        for tile in whole.tiles():
            self._statistic.add_and_differentiate(tile, tile.logits)
            slope = tile.logits
            self._slopes[tile.rows] += slope.sum(1)
            self._rows[tile.rows].addmm_(slope, whole.columns_at(tile.columns))
            if self._columns is not None:
                self._columns[tile.columns].addmm_(slope.t(), whole.rows[tile.rows])

    def backward(self, returned: Sequence[Returned]) -> Gradients:
        """Scale the gradients that are there, or walk again where rows weigh differently."""
        weights = returned[0].gradients["row"]
        if len(weights) and bool((weights == weights[0]).all()):
            return self._times(weights[0])
        return TwoWalks(self._matrix, self._wanted, KeptTiles(0, self._whole.memory)).backward(returned)

    def _times(self, weight: Float[Tensor, ""]) -> Gradients:
        return Gradients(
            rows=self._rows * (weight * self._matrix.base),
            columns=None if self._columns is None else self._columns * weight,
            scale=sum_of_products(self._rows, self._whole.rows) * weight / self._matrix.scale,
            bias=self._slopes.sum() * weight,
        )


def add_to_all(matrix: Matrix, tile: Tile) -> None:
    """Add a tile to every statistic of its matrix; the last one may overwrite it."""
    statistics = list(zip(matrix.statistics, matrix.ratios, strict=True))
    for k, (statistic, ratio) in enumerate(statistics, start=1):
        statistic.add(tile, tile.take(ratio, keep=k != len(statistics)))


def derivative_of(matrix: Matrix, tile: Tile, sums: GradientSums) -> Float[Tensor, "height width"]:
    """Return the derivative of the loss with respect to a tile's logits; add those of scale and bias."""
    used = matrix.differentiable
    if len(used) == 1 and used[0][1] is None and not sums.scale_by_tile:
        ((statistic, _),) = used
        statistic.to_derivative(tile, tile.logits)
        if statistic.biased:
            sums.add_bias(tile, tile.logits)
        return tile.logits
    total = tile.buffer("derivative").zero_()
    for k, (statistic, ratio) in enumerate(used, start=1):
        derivative = tile.take(ratio, keep=True)
        statistic.to_derivative(tile, derivative)
        if statistic.biased:
            sums.add_bias(tile, derivative)
        total.add_(derivative) if ratio is None else total.addcmul_(derivative, ratio)
        if sums.scale_by_tile and k == sums.num_learned:  # those at the model's scale come first
            sums.add_scale(tile, total)
    return total


def begin_backward(matrix: Matrix, returned: Sequence[Returned]) -> None:
    """Prepare the statistics that carry gradients for their tiles."""
    used = [(s, bound) for s, bound in zip(matrix.statistics, matrix.bounds, strict=True) if s.differentiable]
    for (statistic, bound), (saved, gradients) in zip(used, returned, strict=True):
        statistic.begin_backward(saved, gradients, bound, matrix.group)
