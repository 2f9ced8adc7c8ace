"""Gradients of one matrix: which are wanted, what they are called, and how tiles add them up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.pairs.engine.matrix import Matrix
from vlp.pairs.engine.tiles import Rectangle, Tile


class WantedGradients(NamedTuple):
    """Which inputs of a matrix want a gradient; `columns` of a symmetric one never do, they are its rows."""

    rows: bool
    columns: bool
    scale: bool
    bias: bool


class Gradients(NamedTuple):
    """The gradients of the inputs of a matrix; of what was not wanted they are None, or of no meaning."""

    rows: Float[Tensor, "n d"] | None
    columns: Float[Tensor, "m d"] | None
    scale: Float[Tensor, ""] | None
    bias: Float[Tensor, ""] | None


class GradientSums:
    """Gradients that are added up tile by tile.

    The gradient of the scale follows from that of the rows where all statistics are at the model's scale; elsewhere it
    takes the products of two tiles' entries, `add_scale`.

    Args:
        whole: What is walked, its rows at the base scale.
    """

    def __init__(self, matrix: Matrix, whole: Rectangle, wanted: WantedGradients):
        self._matrix, self._whole, self._wanted = matrix, whole, wanted
        used = [statistic for statistic, _ in matrix.differentiable]
        self.num_learned = sum(statistic.learned for statistic in used)
        self._scale_by_rows = wanted.rows and self.num_learned == len(used)
        self.scale_by_tile = wanted.scale and not self._scale_by_rows and self.num_learned > 0
        self._rows = torch.zeros_like(whole.columns if whole.triangular else whole.rows) if wanted.rows else None
        self._columns = torch.zeros_like(whole.columns) if wanted.columns else None
        self._scale, self._bias = whole.rows.new_zeros(()), whole.rows.new_zeros(())

    def add(self, tile: Tile, derivative: Float[Tensor, "height width"]) -> None:
        """Add what the derivative of the loss with respect to a tile's logits moves in rows and columns."""
        whole = self._whole
        if self._rows is not None:
            self._rows[tile.row_places].addmm_(derivative, whole.columns[tile.columns])
            if tile.mirrored:
                self._rows[tile.columns].addmm_(derivative.t(), whole.columns[tile.batch_rows])
        if self._columns is not None:
            self._columns[tile.columns].addmm_(derivative.t(), whole.rows[tile.rows])

    def add_scale(self, tile: Tile, derivative: Float[Tensor, "height width"]) -> None:
        """Add a tile to the gradient of the scale: the derivative by logits that are at the model's scale."""
        self._scale += _share(tile) * torch.dot(derivative.view(-1), tile.logits.view(-1))

    def add_bias(self, tile: Tile, derivative: Float[Tensor, "height width"]) -> None:
        """Add a tile to the gradient of the bias: the derivative by logits that hold it."""
        if self._wanted.bias:
            self._bias += _share(tile) * derivative.sum()

    def finish(self) -> Gradients:
        """Return the gradients, of the inputs as they were before the rows were scaled; once."""
        scale = self._finish_scale() / self._matrix.scale if self._wanted.scale else None
        rows = None if self._rows is None else self._rows.mul_(self._matrix.base)
        return Gradients(rows, self._columns, scale, self._bias if self._wanted.bias else None)

    def _finish_scale(self) -> Float[Tensor, ""]:
        if not self._scale_by_rows:
            return self._scale
        assert self._rows is not None
        if self._whole.triangular:
            return sum_of_products(self._rows, self._whole.columns) * self._matrix.base / 2
        return sum_of_products(self._rows, self._whole.rows)


def _share(tile: Tile) -> float:
    """Return how often the matrix holds each number of the symmetrised derivative: off the diagonal once."""
    return 0.5 if tile.is_symmetric and not tile.mirrored else 1.0


def sum_of_products(first: Float[Tensor, "n d"], second: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the sum of the products of all entries, without memory for the products."""
    products = torch.bmm(first[:, None, :], second[:, :, None], out=first.new_empty(len(first), 1, 1))
    return products.sum()  # `out` also keeps autocast away
