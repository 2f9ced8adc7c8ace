"""Embeddings and their first coordinates in one walk, in which each product of a width is a part of the next one's.

Let U_w be the products of the first w coordinates of rows and columns, as they are. Those of the next width are U_w and
what its further coordinates add, and those of embeddings that were made unit again are U_w times the inverse norms of
both sides. Going back, what moves U_w moves all narrower ones with it: from wide to narrow, derivatives are added up,
and each coordinate takes part in two products, however many widths hold it. So all widths together cost the products of
the widest; masks, exponentials and sums are those of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.pairs.engine.gradients import Gradients, GradientSums, WantedGradients
from vlp.pairs.engine.matrix import Matrix, features_of
from vlp.pairs.engine.statistic import Returned
from vlp.pairs.engine.tile_paths import add_to_all, begin_backward, derivative_of
from vlp.pairs.engine.tiles import Buffers, KeptTiles, Rectangle, Tile
from vlp.pairs.requests import Side

SMALLEST_NORM = 1e-12  # as of torch's normalize


def inverse_norms(features: Float[Tensor, "n d"], widths: Sequence[int]) -> Float[Tensor, "n k"]:
    """Return one over the norm of the first coordinates of each row, width by width."""
    return torch.stack([1 / features[:, :width].norm(dim=1).clamp_min(SMALLEST_NORM) for width in widths], dim=1)


@dataclass(frozen=True)
class Level:
    """One width of several.

    Args:
        matrix: Of its embeddings: what is asked of them, and where numbers belong.
        width: How many coordinates.
        rows: Inverse norm of each row's coordinates; None where embeddings are taken as they are.
        columns: Likewise.
    """

    matrix: Matrix
    width: int
    rows: Float[Tensor, " n"] | None
    columns: Float[Tensor, " m"] | None

    def scale(self, values: Tensor, rows: slice, columns: slice, out: Tensor) -> None:
        """Write products, or what moves them, times the inverse norms of both sides."""
        assert self.rows is not None
        assert self.columns is not None
        torch.mul(values, self.rows[rows, None], out=out).mul_(self.columns[None, columns])


class Nest:
    """Several widths of the embeddings of two sides; a collective.

    Args:
        matrices: By rising width, all at one base scale.
        widths: Of the matrices.
        rows: The side of which the widths are cut; `columns` likewise.
        cut: The widths whose embeddings were made unit again; the widest may be what it was.
    """

    def __init__(
        self, matrices: Sequence[Matrix], widths: Sequence[int], rows: Side, columns: Side, cut: Sequence[int]
    ):
        part = matrices[-1].part
        own, everyone = features_of(rows, columns, part.rows.dtype, matrices[-1].group)
        of_rows, of_columns = inverse_norms(own, cut).unbind(1), inverse_norms(everyone, cut).unbind(1)
        norms = dict(zip(cut, zip(of_rows, of_columns, strict=True), strict=True))
        self.whole = replace(part, rows=own[:, : widths[-1]], columns=everyone[:, : widths[-1]], arriving=None)
        self.levels = [
            Level(matrix, width, *norms.get(width, (None, None)))
            for matrix, width in zip(matrices, widths, strict=True)
        ]


class NestedWalk:
    """Compute the tiles of all widths together, forward and again back; kept tiles hold their products in between.

    Args:
        kept: Where the tiles of each width stay.
    """

    def __init__(self, nest: Nest, wanted: WantedGradients, kept: Sequence[KeptTiles]):
        self._levels, self._whole, self._wanted, self.kept = nest.levels, nest.whole, wanted, kept

    def forward(self) -> None:
        """Add every tile of every width to its statistics."""
        buffers = self._whole.buffers()
        for place in self._places(self._pieces(), buffers, is_first=True):
            for number, level in enumerate(self._levels):
                add_to_all(level.matrix, place.tile(number, level))
        buffers.give_back()

    def backward(self, returned: Sequence[Returned]) -> Gradients:
        """Return what this process's part adds to the gradients: of coordinates, and behind them of inverse norms."""
        each = iter(returned)
        for level in self._levels:
            begin_backward(level.matrix, [next(each) for _ in level.matrix.differentiable])
        sums = NestedSums(self._levels, self._pieces(), self._wanted)
        buffers = self._whole.buffers()
        for place in self._places(sums.pieces, buffers, is_first=False):
            self._add_back(place, sums)
        buffers.give_back()
        return sums.finish()

    def _add_back(self, place: NestedTile, sums: NestedSums) -> None:
        """Add a place of all widths to the gradients, the widest first: it moves the others' coordinates too."""
        total: Tensor | None = None
        for number, level in reversed([*enumerate(self._levels)]):
            tile = place.tile(number, level)
            moved = derivative_of(level.matrix, tile, sums.of_level[number])
            if level.rows is not None:
                level.scale(moved, place.rows, place.columns, out=moved)
                sums.add_norms(number, tile, torch.mul(moved, place.products[number], out=tile.buffer("work")))
            total = tile.buffer("moved").copy_(moved) if total is None else total.add_(moved)
            sums.of_piece[number].add(tile, total)

    def _pieces(self) -> list[Rectangle]:
        """Return what each width adds to the one before, rows at the base scale."""
        rows, columns = self._whole.rows * self._levels[-1].matrix.base, self._whole.columns
        starts = (0, *(level.width for level in self._levels))
        return [
            replace(self._whole, rows=rows[:, start : level.width], columns=columns[:, start : level.width])
            for start, level in zip(starts[:-1], self._levels, strict=True)
        ]

    def _places(self, pieces: Sequence[Rectangle], buffers: Buffers, *, is_first: bool) -> Iterator[NestedTile]:
        """Yield the products of all widths, place by place; each overwrites the one before, but for those kept."""
        for rows, columns in self._whole.places():
            taken = [None if is_first else each.pop(rows, columns) for each in self.kept]
            place = NestedTile(rows, columns, buffers, [], [])
            for kept, piece, product in zip(self.kept, pieces, taken, strict=True):
                if product is None:
                    room = kept.keep(rows, columns, self._whole.rows) if is_first else None
                    place.multiply(piece, room)
                else:
                    place.put(product)
            yield place
            for product in taken:
                if product is not None:
                    self._whole.memory.give(product)


@dataclass
class NestedTile:
    """The products of all widths of some rows and columns.

    Args:
        products: Narrow ones first; all but the widest stay as they are while the place is looked at.
        stay: Which of them stay for the way back.
    """

    rows: slice
    columns: slice
    buffers: Buffers
    products: list[Float[Tensor, "height width"]]
    stay: list[bool]

    def multiply(self, piece: Rectangle, room: Tensor | None) -> None:
        """Add the next width: the one before, and what the further coordinates bring."""
        left, right = piece.rows[self.rows], piece.columns[self.columns].t()
        out = self.buffers.get(f"products {len(self.products)}", len(left), right.shape[1]) if room is None else room
        if self.products:
            torch.addmm(self.products[-1], left, right, out=out)
        else:
            torch.mm(left, right, out=out)
        self.products.append(out)
        self.stay.append(room is not None)

    def put(self, products: Float[Tensor, "height width"]) -> None:
        """Add the next width, whose products were kept."""
        self.products.append(products)
        self.stay.append(False)

    def tile(self, number: int, level: Level) -> Tile:
        """Return the tile of a width, whose logits are free to be overwritten."""
        products = self.products[number]
        if level.rows is None:  # the widest: nobody else reads its products
            return Tile(level.matrix.part, self.rows, self.columns, self.buffers, products, is_kept=self.stay[number])
        logits = self.buffers.get("logits", *products.shape)
        level.scale(products, self.rows, self.columns, out=logits)
        return Tile(level.matrix.part, self.rows, self.columns, self.buffers, logits)


class NestedSums:
    """Gradients of several widths that are added up tile by tile; that of the scale as in `GradientSums`.

    Args:
        pieces: What is walked, cut into what each width adds to the one before.
    """

    def __init__(self, levels: Sequence[Level], pieces: Sequence[Rectangle], wanted: WantedGradients):
        self._levels, self.pieces = levels, pieces
        used = [statistic for level in levels for statistic, _ in level.matrix.differentiable]
        scale_by_rows = wanted.rows and all(statistic.learned for statistic in used)
        by_rows = wanted._replace(scale=wanted.scale and scale_by_rows, bias=False)
        by_tile = WantedGradients(False, False, wanted.scale and not scale_by_rows, wanted.bias)
        self.of_piece = [GradientSums(levels[-1].matrix, piece, by_rows) for piece in pieces]
        self.of_level = [GradientSums(level.matrix, level.matrix.part, by_tile) for level in levels]
        whole = pieces[-1]
        self._triangular, num_cut = whole.triangular, sum(level.rows is not None for level in levels)
        num_rows = len(whole.columns if whole.triangular else whole.rows)
        self._rows = whole.rows.new_zeros(num_cut, num_rows) if wanted.rows else None
        self._columns = whole.rows.new_zeros(num_cut, len(whole.columns)) if wanted.columns else None

    def add_norms(self, number: int, tile: Tile, shares: Float[Tensor, "height width"]) -> None:
        """Add a tile to the gradients of the logarithms of a level's inverse norms: products times what moves them."""
        if self._rows is not None:
            self._rows[number, tile.row_places] += shares.sum(1)
            if tile.mirrored:
                self._rows[number, tile.columns] += shares.sum(0)
        if self._columns is not None:
            self._columns[number, tile.columns] += shares.sum(0)

    def finish(self) -> Gradients:
        """Return the gradients; those of rows and columns hold a number for each inverse norm behind coordinates."""
        cut = [level for level in self._levels if level.rows is not None and level.columns is not None]
        pieces, levels = [each.finish() for each in self.of_piece], [each.finish() for each in self.of_level]
        rows = [level.columns if self._triangular else level.rows for level in cut]
        return Gradients(
            behind([each.rows for each in pieces], self._rows, rows),
            behind([each.columns for each in pieces], self._columns, [level.columns for level in cut]),
            _sum([each.scale for each in (*pieces, *levels)]),
            _sum([each.bias for each in levels]),
        )


def behind(pieces: Sequence[Tensor | None], norms: Tensor | None, inverse: Sequence[Tensor | None]) -> Tensor | None:
    """Return gradients of coordinates, and those of inverse norms from those of their logarithms."""
    if norms is None:
        return None
    coordinates = [piece for piece in pieces if piece is not None]
    if len(coordinates) == 1 and not len(norms):
        return coordinates[0]
    each = [row / values for row, values in zip(norms, inverse, strict=True) if values is not None]
    return torch.cat([*coordinates, *(values[:, None] for values in each)], dim=1)


def _sum(values: Sequence[Tensor | None]) -> Tensor | None:
    found = [value for value in values if value is not None]
    return torch.stack(found).sum(0) if found else None
