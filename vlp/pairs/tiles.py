"""Walk a similarity matrix tile by tile, in buffers that are allocated once per walk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlp.pairs.requests import Mask

TILE_SIZE = 1024  # 4 MB of float32: the tile stays in the cache between its product and its exponentials


@dataclass
class Rectangle:
    """The part of a similarity matrix that one walk covers.

    Args:
        rows: Already multiplied by the scale of the walk.
        row_start: Position of the first row in the whole batch; `column_start` likewise.
        labels: Of the whole batch; `reference` likewise.
        triangular: Skip the tiles below the diagonal of a symmetric matrix.
    """

    rows: Float[Tensor, "n d"]
    columns: Float[Tensor, "m d"]
    row_start: int = 0
    column_start: int = 0
    labels: Int64[Tensor, " b"] | None = None
    reference: Float[Tensor, "b r"] | None = None
    triangular: bool = False

    def tiles(self, tile_size: int) -> Iterator[Tile]:
        """Yield the tiles in order; each overwrites the one before."""
        buffers = Buffers(self.rows, tile_size)
        for i in range(0, len(self.rows), tile_size):
            for j in range(i if self.triangular else 0, len(self.columns), tile_size):
                rows = slice(i, min(i + tile_size, len(self.rows)))
                columns = slice(j, min(j + tile_size, len(self.columns)))
                yield Tile(self, rows, columns, buffers)


class Buffers:
    """Named scratch memory of the size of one tile, allocated on first use."""

    def __init__(self, like: Tensor, tile_size: int):
        self._like = like
        self._tile_size = tile_size
        self._flat: dict[str, Tensor] = {}

    def get(self, name: str, height: int, width: int) -> Float[Tensor, "height width"]:
        """Return a contiguous tile of unspecified content."""
        if name not in self._flat:
            self._flat[name] = self._like.new_empty(self._tile_size * self._tile_size)
        return self._flat[name][: height * width].view(height, width)


class Tile:
    """One tile: its logits, where it lies, and the scratch memory to work in."""

    def __init__(self, whole: Rectangle, rows: slice, columns: slice, buffers: Buffers):
        self.rows = rows
        self.columns = columns
        self.batch_rows = slice(whole.row_start + rows.start, whole.row_start + rows.stop)
        self.batch_columns = slice(whole.column_start + columns.start, whole.column_start + columns.stop)
        self.mirrored = whole.triangular and rows.start != columns.start
        self._whole = whole
        self._buffers = buffers
        self.logits = torch.mm(whole.rows[rows], whole.columns[columns].t(), out=self.buffer("logits"))

    def buffer(self, name: str) -> Float[Tensor, "height width"]:
        """Return scratch memory of this tile's shape."""
        return self._buffers.get(name, self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)

    def take(self, ratio: Tensor | None, keep: bool) -> Float[Tensor, "height width"]:
        """Return the logits times `ratio`, free to be overwritten; without `keep` the tile itself."""
        if ratio is None:
            return self.buffer("work").copy_(self.logits) if keep else self.logits
        return torch.mul(self.logits, ratio, out=self.buffer("work"))

    def hide(self, logits: Tensor, mask: Mask) -> Tensor:
        """Write minus infinity over the masked entries."""
        if mask == "pair":
            offset = self.batch_rows.start - self.batch_columns.start
            if -logits.shape[0] < offset < logits.shape[1]:
                logits.diagonal(offset).fill_(-torch.inf)
        elif mask == "label":
            labels = self._whole.labels
            assert labels is not None
            logits.masked_fill_(labels[self.batch_rows, None] == labels[None, self.batch_columns], -torch.inf)
        return logits

    def reference(self) -> Float[Tensor, "height width"]:
        """Return the cosines of the reference features."""
        features = self._whole.reference
        assert features is not None
        return torch.mm(features[self.batch_rows], features[self.batch_columns].t(), out=self.buffer("reference"))
