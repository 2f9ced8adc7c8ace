"""How requests read tiles: the protocol of statistics, and where in their vectors the numbers of a tile belong.

A statistic serves every request that differs only in its axis, so rows and columns share one exponential.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vlp.ground import dist
from vlp.pairs.engine.tiles import Rectangle, Tile
from vlp.pairs.requests import Axis, Request

Vectors = dict[Axis, Tensor]
AXES: tuple[Axis, Axis] = ("row", "column")


class Returned(NamedTuple):
    """What comes back to a statistic: what it saved, and the gradients of its results, by axis."""

    saved: Vectors
    gradients: Vectors


class Statistic(Protocol):
    """One sum over tiles, and the derivative of a loss with respect to what was added up.

    The verbs in their order, and who says them:

    1. `begin_forward`: the walk, before the first tile.
    2. `add`: the path, for each tile once.
    3. `merge_processes`: the walk, after the last tile; a collective.
    4. `is_exact`: the walk; where one process says no, 1 to 3 come again, without a bound.
    5. `results`, `saved_for_backward`: the answers, any number of times.
    6. `begin_backward`: the path, at every backward pass; a collective.
    7. `to_derivative`: the path, for each tile once after 6.

    6 and 7 may come any number of times, and change nothing of what 5 says.

    Vectors of rows are of this process, vectors of columns of the whole batch; of a triangular walk both are of the
    whole batch.

    Args:
        requests: The requests it answers, by axis.
        factor: Its scale: times the model's when `learned`.
        biased: Whether the model's bias is part of its logits.
        differentiable: Whether its results carry gradients; if not, 6 and 7 never come.
        per_sample: Whether its results have one entry per row or column.
    """

    requests: dict[Axis, Request]
    factor: float
    learned: bool
    biased: bool
    differentiable: bool
    per_sample: bool

    def begin_forward(self, whole: Rectangle, bound: float | None, /) -> None:
        """Clear the sums; `bound` limits the size of every logit where it is known without waiting."""

    def add(self, tile: Tile, logits: Tensor, /) -> None:
        """Add a tile to the sums; may overwrite `logits`."""

    def merge_processes(self, group: dist.Group, /) -> None:
        """Complete the sums of the whole batch, to which every process has added its tiles."""

    def is_exact(self) -> bool:
        """Whether nothing overflowed or vanished; always so without a bound."""

    def results(self) -> Vectors:
        """Return what was added up."""

    def saved_for_backward(self) -> Vectors:
        """Return what `begin_backward` needs to see again, one row of numbers per row or column."""

    def begin_backward(self, saved: Vectors, gradients: Vectors, bound: float | None, group: dist.Group, /) -> None:
        """Prepare `to_derivative` from what was saved and the gradients of the results.

        Of a symmetric matrix, which is asked about its rows, both come for columns too.
        """

    def to_derivative(self, tile: Tile, logits: Tensor, /) -> None:
        """Turn `logits` into the derivative of the loss with respect to them."""


def zeros(whole: Rectangle, axis: Axis, fill: float = 0.0) -> Tensor:
    """Return a fresh vector with one number per row or column."""
    return whole.rows.new_full((len(whole.columns if axis in shared(whole) else whole.rows),), fill)


def shared(whole: Rectangle) -> tuple[Axis, ...]:
    """Return the axes whose vectors are of the whole batch, so that every process has a part of each sum."""
    return AXES if whole.triangular else ("column",)


def places(tile: Tile, axes: Iterable[Axis]) -> list[tuple[Axis, slice, int]]:
    """Return where a tile's sums go: (vector, part of it, dimension to reduce)."""
    found: list[tuple[Axis, slice, int]] = []
    if "row" in axes:
        found.append(("row", tile.row_places, 1))
        if tile.mirrored:
            found.append(("row", tile.columns, 0))
    if "column" in axes:
        found.append(("column", tile.columns, 0))
    return found


def along(tile: Tile, axis: Axis, vector: Tensor) -> Tensor:
    """Return a vector's part for a tile, shaped to broadcast over it."""
    return vector[tile.row_places, None] if axis == "row" else vector[None, tile.columns]


def outer_sum(tile: Tile, vectors: Vectors) -> Tensor:
    """Return the sum of one number per row and one per column, for every entry."""
    parts = [along(tile, axis, vector) for axis, vector in vectors.items()]
    return parts[0] if len(parts) == 1 else torch.add(parts[0], parts[1], out=tile.buffer("total"))
