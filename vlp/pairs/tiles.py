"""Walk a similarity matrix tile by tile, in buffers that are allocated once per walk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.pairs.functions import Kernel
from vlp.pairs.requests import Mask, Side

TILE_SIZE = 1024  # 4 MB of float32: the tile stays in the cache between its product and its exponentials


@dataclass
class Rectangle:
    """The part of a similarity matrix that one process walks: its own rows, everyone's columns.

    Args:
        rows: Already multiplied by the scale of the walk.
        row_start: Position of the first row in the whole batch.
        row_side: Labels and reference features of the whole batch; `column_side` likewise.
        triangular: Skip the tiles below the diagonal of a symmetric matrix.
        stored: Tiles kept from the forward walk, by position; they need no second product.
    """

    rows: Float[Tensor, "n d"]
    columns: Float[Tensor, "m d"]
    row_start: int
    row_side: Side
    column_side: Side
    triangular: bool = False
    stored: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def tiles(self, tile_size: int, *, store: bool = False) -> Iterator[Tile]:
        """Yield the tiles in order; each overwrites the one before.

        Args:
            store: Keep the logits of every tile in `stored`.
        """
        buffers = Buffers(self.rows, min(tile_size, max(len(self.rows), len(self.columns))))
        for i in range(0, len(self.rows), tile_size):
            for j in range(i if self.triangular else 0, len(self.columns), tile_size):
                rows = slice(i, min(i + tile_size, len(self.rows)))
                columns = slice(j, min(j + tile_size, len(self.columns)))
                tile = Tile(self, rows, columns, buffers, store)
                if store:
                    self.stored[i, j] = tile.logits
                yield tile


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
    """One tile: its logits, where it lies, and the scratch memory to work in.

    Args:
        rows: Of this process; `batch_rows` are the same in the whole batch.
        columns: Of the whole batch.
        mirrored: Whether the tile also stands for the one on the other side of the diagonal.
        is_kept: Whether the logits stay for the backward walk, so that nobody may overwrite them.
    """

    def __init__(self, whole: Rectangle, rows: slice, columns: slice, buffers: Buffers, is_kept: bool):
        self.rows = rows
        self.columns = columns
        self.batch_rows = slice(whole.row_start + rows.start, whole.row_start + rows.stop)
        self.is_symmetric = whole.row_side is whole.column_side
        self.mirrored = whole.triangular and rows.start != columns.start
        self._whole = whole
        self._buffers = buffers
        self._is_kept = is_kept
        self._products: set[str] = set()
        stored = whole.stored.pop((rows.start, columns.start), None)
        if stored is None:
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            stored = whole.rows.new_empty(shape) if is_kept else self.buffer("logits")
            torch.mm(whole.rows[rows], whole.columns[columns].t(), out=stored)
        self.logits: Float[Tensor, "height width"] = stored

    def buffer(self, name: str) -> Float[Tensor, "height width"]:
        """Return scratch memory of this tile's shape."""
        return self._buffers.get(name, self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)

    def take(self, ratio: Tensor | None, keep: bool) -> Float[Tensor, "height width"]:
        """Return the logits times `ratio`, free to be overwritten; without `keep` the tile itself where it is free."""
        if ratio is None:
            return self.buffer("work").copy_(self.logits) if keep or self._is_kept else self.logits
        return torch.mul(self.logits, ratio, out=self.buffer("work"))

    def hide(self, logits: Tensor, mask: Mask) -> Tensor:
        """Write minus infinity over the masked entries."""
        if mask == "pair":
            offset = self.batch_rows.start - self.columns.start
            if -logits.shape[0] < offset < logits.shape[1]:
                logits.diagonal(offset).fill_(-torch.inf)
        elif mask == "label":
            rows, columns = self._whole.row_side.labels, self._whole.column_side.labels
            assert rows is not None
            assert columns is not None
            logits.masked_fill_(rows[self.batch_rows, None] == columns[None, self.columns], -torch.inf)
        return logits

    def log_weights(self, kernel: Kernel) -> Float[Tensor, "height width"]:
        """Return a kernel's log-weights, free to be overwritten; kernels of one reference share its product."""
        products = self.buffer(f"products of {kernel.of}")
        if kernel.of not in self._products:
            rows = self._whole.row_side.references[kernel.of][self.batch_rows].to(products.dtype)
            columns = self._whole.column_side.references[kernel.of][self.columns].to(products.dtype)
            torch.mm(rows, columns.t(), out=products)
            self._products.add(kernel.of)
        return kernel.log_weight(self.buffer("weights").copy_(products))
