"""Walk a similarity matrix tile by tile, in memory that goes from walk to walk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vlp.ground.dist import ArrivingRows
from vlp.pairs.functions import Kernel
from vlp.pairs.requests import Mask, Side

TILE_SIZE = 1024  # 4 MB of float32: the tile stays in the cache between its product and its exponentials


class TileMemory:
    """Memory of tiles that nobody uses just now; a fresh page costs more than the exponentials of its numbers."""

    def __init__(self) -> None:
        self._free: dict[tuple[int, torch.dtype, torch.device], list[Tensor]] = {}

    def take(self, size: int, like: Tensor) -> Float[Tensor, " size"]:
        """Return so many numbers of unspecified content."""
        free = self._free.get((size, like.dtype, like.device))
        return free.pop() if free else like.new_empty(size)

    def give(self, numbers: Tensor) -> None:
        """Take back what `take` returned, in whatever shape; its owner must forget it."""
        self._free.setdefault((numbers.numel(), numbers.dtype, numbers.device), []).append(numbers.view(-1))


class KeptTiles:
    """Tiles that the forward walk leaves to the backward walk, which needs no second product for them.

    Args:
        num_bytes: So much of a matrix is kept, its first tiles.
        memory: Where tiles come from and go to.
    """

    def __init__(self, num_bytes: int, memory: TileMemory):
        self._num_bytes_left = num_bytes
        self._memory = memory
        self._tiles: dict[tuple[int, int], Tensor] = {}

    def __len__(self) -> int:
        return len(self._tiles)

    def keep(self, rows: slice, columns: slice, like: Tensor) -> Float[Tensor, "height width"] | None:
        """Return memory for a tile that is kept as whoever gets it leaves it; None where there is no more room."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        num_bytes = height * width * like.element_size()
        if num_bytes > self._num_bytes_left:
            return None
        self._num_bytes_left -= num_bytes
        tile = self._memory.take(height * width, like).view(height, width)
        self._tiles[rows.start, columns.start] = tile
        return tile

    def pop(self, rows: slice, columns: slice) -> Float[Tensor, "height width"] | None:
        """Return what was kept of a tile, once; None where it was not."""
        return self._tiles.pop((rows.start, columns.start), None)

    def give_back(self) -> None:
        """Leave the memory of all tiles to others; what they hold is of no use."""
        while self._tiles:
            self._memory.give(self._tiles.popitem()[1])


@dataclass(frozen=True)
class Rectangle:
    """The part of a similarity matrix that one process walks: its own rows, everyone's columns.

    Args:
        rows: As they are, or multiplied by a scale.
        row_start: Position of the first row in the whole batch.
        row_side: Ids, labels and reference features of the whole batch; `column_side` likewise.
        triangular: Of a symmetric matrix, walk each pair of tiles that mirror each other once among all processes.
        tile_size: Rows and columns of a tile.
        memory: Where tiles come from and go to.
        arriving: Columns on their way from other processes: what this one has is walked before.
    """

    rows: Float[Tensor, "n d"]
    columns: Float[Tensor, "m d"]
    row_start: int
    row_side: Side
    column_side: Side
    triangular: bool = False
    tile_size: int = TILE_SIZE
    memory: TileMemory = field(default_factory=TileMemory)
    arriving: ArrivingRows | None = None

    @property
    def is_symmetric(self) -> bool:
        """Whether rows and columns are the same embeddings."""
        return self.row_side is self.column_side

    @property
    def num_bytes(self) -> int:
        """What all of it would take, if it existed."""
        return len(self.rows) * len(self.columns) * self.rows.element_size()

    def tiles(self, *, keep_in: KeptTiles | None = None, take_from: KeptTiles | None = None) -> Iterator[Tile]:
        """Yield the tiles in order; each overwrites the one before, but for those that are kept.

        Args:
            keep_in: Keeps the first tiles, as far as it has room.
            take_from: Has tiles that need no product.
        """
        buffers = self.buffers()
        for rows, columns in self.places():
            kept = None if take_from is None else take_from.pop(rows, columns)
            if kept is not None:
                yield Tile(self, rows, columns, buffers, kept, was_kept=True)
                self.memory.give(kept)
                continue
            room = None if keep_in is None else keep_in.keep(rows, columns, self.rows)
            out = buffers.get("logits", rows.stop - rows.start, columns.stop - columns.start) if room is None else room
            logits = torch.mm(self.rows[rows], self.columns_at(columns).t(), out=out)
            yield Tile(self, rows, columns, buffers, logits, is_kept=room is not None)
        buffers.give_back()

    def buffers(self) -> Buffers:
        """Return scratch memory for a walk."""
        return Buffers(self.memory, self.rows, min(self.tile_size, max(len(self.rows), len(self.columns))))

    def columns_at(self, places: slice) -> Float[Tensor, "c d"]:
        """Return columns, and wait for them where they are others' and still on their way."""
        return self.columns[places] if self.arriving is None else self.arriving.at(places)

    def places(self) -> Iterator[tuple[slice, slice]]:
        """Yield rows and columns of the tiles in their order."""
        all_rows = list(cut(0, len(self.rows), self.tile_size))
        parts: list[Callable[[slice], Iterator[slice]]] = [self._own_half, self._half_of_others]
        if not self.triangular:
            parts = [partial(self._piece, piece) for piece in self.in_order()]
        if self.arriving is not None:
            yield from ((rows, columns) for of_row in parts for rows in all_rows for columns in of_row(rows))
        else:
            yield from ((rows, columns) for rows in all_rows for of_row in parts for columns in of_row(rows))

    def in_order(self) -> list[slice]:
        """Return pieces of the columns in the order in which they are there: those of others behind this process's."""
        if self.arriving is None:
            return [slice(0, len(self.columns))]
        own = self.arriving.own_places
        return [own, slice(0, own.start), slice(own.stop, len(self.columns))]

    def _piece(self, columns: slice, _rows: slice) -> Iterator[slice]:
        return cut(columns.start, columns.stop, self.tile_size)

    def _own_half(self, rows: slice) -> Iterator[slice]:
        """Yield the columns of a row of tiles in a triangle's own block, on and behind the diagonal."""
        return cut(self.row_start + rows.start, self.row_start + len(self.rows), self.tile_size)

    def _half_of_others(self, rows: slice) -> Iterator[slice]:
        """Yield the columns of a row of tiles in others' blocks whose mirror images nobody else walks.

        A process takes the blocks of half of the others, in a circle; from the one opposite it takes every other tile.
        """
        size, tile_size = len(self.rows), self.tile_size
        own, num_blocks = self.row_start // size, len(self.columns) // size
        for step in range(1, num_blocks // 2 + 1):
            other = (own + step) % num_blocks
            for number, columns in enumerate(cut(other * size, (other + 1) * size, tile_size)):
                is_even = (rows.start // tile_size + number) % 2 == 0
                if 2 * step != num_blocks or is_even == (own < other):
                    yield columns


def cut(start: int, stop: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` from `start` to `stop`."""
    for begin in range(start, stop, size):
        yield slice(begin, min(begin + size, stop))


class Buffers:
    """Named scratch memory of the size of one tile, taken on first use."""

    def __init__(self, memory: TileMemory, like: Tensor, tile_size: int):
        self._memory = memory
        self._like = like
        self._tile_size = tile_size
        self._flat: dict[str, Tensor] = {}

    def get(self, name: str, height: int, width: int) -> Float[Tensor, "height width"]:
        """Return a contiguous tile of unspecified content."""
        if name not in self._flat:
            self._flat[name] = self._memory.take(self._tile_size * self._tile_size, self._like)
        return self._flat[name][: height * width].view(height, width)

    def give_back(self) -> None:
        """Leave the memory to the next walk."""
        while self._flat:
            self._memory.give(self._flat.popitem()[1])


class Tile:
    """One tile: its logits, where it lies, and the scratch memory to work in.

    Args:
        rows: Of this process; `batch_rows` are the same in the whole batch, `row_places` in vectors of rows.
        columns: Of the whole batch.
        logits: Products of rows and columns, or what the forward walk left of them.
        mirrored: Whether the tile also stands for the one on the other side of the diagonal.
        is_kept: Whether the logits stay for the backward walk, so that nobody but the path itself may overwrite them.
        was_kept: Whether they stayed.
    """

    def __init__(
        self,
        whole: Rectangle,
        rows: slice,
        columns: slice,
        buffers: Buffers,
        logits: Float[Tensor, "height width"],
        *,
        is_kept: bool = False,
        was_kept: bool = False,
    ):
        self.rows = rows
        self.columns = columns
        self.logits = logits
        self.is_kept = is_kept
        self.was_kept = was_kept
        self.batch_rows = slice(whole.row_start + rows.start, whole.row_start + rows.stop)
        self.row_places = self.batch_rows if whole.triangular else rows
        self.is_symmetric = whole.is_symmetric
        self.mirrored = whole.triangular and self.batch_rows.start != columns.start
        self._whole = whole
        self._buffers = buffers
        self._products: set[str] = set()
        self._same: Bool[Tensor, "height width"] | None = None

    def buffer(self, name: str) -> Float[Tensor, "height width"]:
        """Return scratch memory of this tile's shape."""
        return self._buffers.get(name, self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)

    def take(self, ratio: Tensor | None, keep: bool) -> Float[Tensor, "height width"]:
        """Return the logits times `ratio`, free to be overwritten; without `keep` the tile itself where it is free."""
        if ratio is None:
            return self.buffer("work").copy_(self.logits) if keep or self.is_kept else self.logits
        return torch.mul(self.logits, ratio, out=self.buffer("work"))

    def hide(self, logits: Tensor, mask: Mask) -> Tensor:
        """Write minus infinity over the masked entries."""
        rows, columns = self._whole.row_side, self._whole.column_side
        if mask == "label":
            assert rows.labels is not None
            assert columns.labels is not None
            logits.masked_fill_(self._equal(rows.labels, columns.labels), -torch.inf)
        if rows.ids is None or columns.ids is None:
            if mask == "pair":
                self._diagonal(logits).fill_(-torch.inf)
        elif mask != "none":
            self._hide_same_sample(logits, self._same_sample(rows.ids, columns.ids), is_own_seen=mask == "twin")
        return logits

    def _hide_same_sample(self, logits: Tensor, same: Bool[Tensor, "height width"], *, is_own_seen: bool) -> None:
        own = self._diagonal(logits).clone() if is_own_seen else None
        logits.masked_fill_(same, -torch.inf)
        if own is not None:
            self._diagonal(logits).copy_(own)

    def _same_sample(self, rows: Int64[Tensor, " b"], columns: Int64[Tensor, " c"]) -> Bool[Tensor, "height width"]:
        """Return where both sides are one sample; statistics share the answer."""
        if self._same is None:
            self._same = self._equal(rows, columns)
        return self._same

    def _equal(self, rows: Int64[Tensor, " b"], columns: Int64[Tensor, " c"]) -> Bool[Tensor, "height width"]:
        return rows[self.batch_rows, None] == columns[None, self.columns]

    def _diagonal(self, values: Tensor) -> Float[Tensor, " k"]:
        """Return the entries of the tile whose two sides stand at the same place, none where it holds none."""
        offset = self.batch_rows.start - self.columns.start
        is_inside = -values.shape[0] < offset < values.shape[1]
        return values.diagonal(offset) if is_inside else values.new_empty(0)

    def log_weights(self, kernel: Kernel) -> Float[Tensor, "height width"]:
        """Return a kernel's log-weights, free to be overwritten; kernels of one reference share its product."""
        products = self.buffer(f"products of {kernel.of}")
        if kernel.of not in self._products:
            rows = self._whole.row_side.references[kernel.of][self.batch_rows].to(products.dtype)
            columns = self._whole.column_side.references[kernel.of][self.columns].to(products.dtype)
            torch.mm(rows, columns.t(), out=products)
            self._products.add(kernel.of)
        return kernel.log_weight(self.buffer("weights").copy_(products))
