"""Gradients of what was walked: from a second walk over the tiles, or from the first one where it could know them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlp.pairs.engine.plain_sums import PointwiseSum
from vlp.pairs.engine.softmax_sums import LogSumExp
from vlp.pairs.engine.statistic import Statistic
from vlp.pairs.engine.tiles import Rectangle, Tile

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class ForwardGradients:
    """Gradients of one pointwise sum, formed in the forward walk as if the loss were the sum of its rows.

    A mean over rows, which is what losses take of them, only scales them afterwards: three products of a whole matrix
    whatever its size, and no tile is needed twice.
    """

    def __init__(self, whole: Rectangle, wants_columns: bool):
        self._whole = whole
        self._rows = torch.zeros_like(whole.rows)
        self._columns = torch.zeros_like(whole.columns) if wants_columns else None
        self._slopes = whole.rows.new_zeros(len(whole.rows))

    def walk(self, statistic: PointwiseSum, tile_size: int) -> None:
        """Add all tiles to the statistic and to the gradients."""
        whole = self._whole
        for tile in whole.tiles(tile_size):
            statistic.add_and_differentiate(tile, tile.logits)
            slope = tile.logits
            self._slopes[tile.rows] += slope.sum(1)
            self._rows[tile.rows].addmm_(slope, whole.columns[tile.columns])
            if self._columns is not None:
                self._columns[tile.columns].addmm_(slope.t(), whole.rows[tile.rows])

    def of_mean(self, weights: Tensor, scale: Tensor, base: Tensor) -> Gradients | None:
        """Return the gradients of rows, columns, scale and bias; None where the loss weighs rows differently.

        Args:
            weights: Derivative of the loss with respect to each row's sum.
            scale: Of the model.
            base: What the rows of the rectangle were multiplied by.
        """
        if not len(weights) or not bool((weights == weights[0]).all()):
            return None
        weight = weights[0]
        columns = None if self._columns is None else self._columns * weight
        scale_gradient = _inner(self._rows, self._whole.rows) * weight / scale
        return self._rows * (weight * base), columns, scale_gradient, self._slopes.sum() * weight


class BackwardWalk:
    """Gradients of one rectangle, added up tile by tile.

    Args:
        whole: Its stored tiles hold logits, or exponentials.
        scale: Of the model.
        base: What the rows of the rectangle were multiplied by.
        used: The statistics that carry a gradient, loaded, with the ratio of their scale to the base.
        wanted: Whether the gradients of rows, columns, scale and bias are wanted.
    """

    def __init__(
        self,
        whole: Rectangle,
        scale: Tensor,
        base: Tensor,
        used: Sequence[tuple[Statistic, Tensor | None]],
        wanted: Sequence[bool],
        tile_size: int,
        *,
        stored_exponentials: bool,
    ):
        wants_rows, wants_columns, wants_scale, wants_bias = wanted
        self._whole, self._used, self._stored_exponentials = whole, used, stored_exponentials
        self._num_learned = sum(statistic.learned for statistic, _ in used)
        self._scale_by_rows = wants_rows and self._num_learned == len(used)
        self._scale_by_tile = wants_scale and not self._scale_by_rows and self._num_learned > 0
        self._wants_bias = wants_bias and any(statistic.biased for statistic, _ in used)
        self._row_sums = torch.zeros_like(whole.columns if whole.triangular else whole.rows) if wants_rows else None
        self._column_sums = torch.zeros_like(self._whole.columns) if wants_columns else None
        self._scale_sum, self._bias_sum = self._whole.rows.new_zeros(()), self._whole.rows.new_zeros(())
        for tile in whole.tiles(tile_size):
            self._add(tile)
        self.columns = self._column_sums
        self.scale = self._finish_scale(base) / scale if wants_scale else None
        self.bias = self._bias_sum if wants_bias else None
        self.rows = None if self._row_sums is None else self._row_sums.mul_(base)

    def _share(self, tile: Tile) -> float:
        """Return how often the matrix holds each number of the symmetrised derivative: off the diagonal once."""
        return 0.5 if tile.is_symmetric and not tile.mirrored else 1.0

    def _add(self, tile: Tile) -> None:
        derivative = self._derivative(tile)
        if self._row_sums is not None:
            self._row_sums[tile.row_places].addmm_(derivative, self._whole.columns[tile.columns])
            if tile.mirrored:
                self._row_sums[tile.columns].addmm_(derivative.t(), self._whole.columns[tile.batch_rows])
        if self._column_sums is not None:
            self._column_sums[tile.columns].addmm_(derivative.t(), self._whole.rows[tile.rows])

    def _derivative(self, tile: Tile) -> Tensor:
        """Return the derivative of the loss with respect to the logits of the tile."""
        (statistic, ratio), *others = self._used
        if tile.was_stored and self._stored_exponentials:
            assert isinstance(statistic, LogSumExp)
            statistic.exponentials_to_derivative(tile, tile.logits)
            return tile.logits
        if not others and ratio is None and not self._scale_by_tile:
            logits = tile.take(None, keep=False)
            self._weigh(statistic, tile, logits)
            return logits
        derivative = tile.buffer("derivative").zero_()
        for k, (statistic, ratio) in enumerate(self._used):
            logits = tile.take(ratio, keep=True)
            self._weigh(statistic, tile, logits)
            derivative.add_(logits) if ratio is None else derivative.addcmul_(logits, ratio)
            if self._scale_by_tile and k + 1 == self._num_learned:
                self._scale_sum += self._share(tile) * torch.dot(derivative.view(-1), tile.logits.view(-1))
        return derivative

    def _weigh(self, statistic: Statistic, tile: Tile, logits: Tensor) -> None:
        statistic.to_derivative(tile, logits)
        if self._wants_bias and statistic.biased:
            self._bias_sum += self._share(tile) * logits.sum()

    def _finish_scale(self, base: Tensor) -> Tensor:
        if not self._scale_by_rows:
            return self._scale_sum
        assert self._row_sums is not None
        if self._whole.triangular:
            return _inner(self._row_sums, self._whole.columns) * base / 2
        return _inner(self._row_sums, self._whole.rows)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Return the sum of the products of all entries, without memory for the products."""
    products = torch.bmm(first[:, None, :], second[:, :, None], out=first.new_empty(len(first), 1, 1))
    return products.sum()  # `out` also keeps autocast away
