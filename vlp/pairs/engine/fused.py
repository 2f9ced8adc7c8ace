"""The walk on CUDA: Triton answers the requests of a block from products that never leave the chip.

The matrix is cut into panels. Forward: each tile of a panel leaves one number per row and per column, which are then
added up. Backward: the derivative of one panel exists at a time, and two library products make gradients of it: three
products for any number of features. Kernels that keep the gradients on the chip need four, and more as soon as a row of
features does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlp.pairs.engine.statistic import AXES, Statistic, Vectors
from vlp.pairs.engine.tiles import Rectangle
from vlp.pairs.functions import SOFTPLUS
from vlp.pairs.requests import LSE, MAP, Axis, Block, Mask, Request, mask_of

Backend = Literal["auto", "tiles", "triton"]
PANEL_SIZE = 4096  # 64 MB of derivatives, made by a few thousand programs
OLDEST_CAPABILITY = (8, 0)  # of a CUDA device, for Triton


def is_chosen(backend: Backend, block: Block, requests: Iterable[Request]) -> bool:
    """Whether Triton answers all requests of a block.

    Raises:
        ValueError: `backend` says so, but there is a request or a type without a kernel.
    """
    has_kernels = _is_single_or_half(block) and all(_has_kernel(request) for request in requests)
    if backend == "triton" and not has_kernels:
        raise ValueError(
            "backend 'triton' answers MAP(SOFTPLUS) and LSE without kernels and individual scales, in 32 bits or less; "
            "'auto' takes it where it can"
        )
    return backend == "triton" or (backend == "auto" and has_kernels and _runs_on(block.rows.local.device))


def _is_single_or_half(block: Block) -> bool:
    types = (torch.float32, torch.bfloat16, torch.float16)
    return all(side.local.dtype in types for side in (block.rows, block.columns))


def _has_kernel(request: Request) -> bool:
    if isinstance(request, MAP):
        return request.function is SOFTPLUS
    return isinstance(request, LSE) and request.kernel is None and not request.individual


def _runs_on(device: torch.device) -> bool:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return False
    try:
        _kernels()
    except ImportError:
        return False
    return True


@cache
def _kernels() -> ModuleType:
    """Import the kernels; without CUDA nobody pays for Triton, or needs it."""
    from vlp.pairs.engine import triton_kernels

    return triton_kernels


MASKS: tuple[Mask, ...] = get_args(Mask)


class PlanEntry(NamedTuple):
    """What a kernel is compiled for, per statistic.

    Args:
        is_softplus: Whether it is a sum of softplus, not a log-sum-exp.
        mask: Place of its mask among all.
        row: Place of its vector among those of rows, -1 if it has none; `column` likewise.
        learned: Whether the model's scale takes part.
    """

    is_softplus: bool
    mask: int
    row: int
    column: int
    learned: bool


Plan = tuple[PlanEntry, ...]


def _plan(statistics: Sequence[Statistic], axes: Iterable[Iterable[Axis]]) -> Plan:
    """Give each statistic a place among the vectors of each of its axes."""
    places = {axis: iter(range(len(statistics))) for axis in AXES}
    entries = []
    for statistic, own in zip(statistics, axes, strict=True):
        request = next(iter(statistic.requests.values()))
        row, column = (next(places[axis]) if axis in own else -1 for axis in AXES)
        entries.append(
            PlanEntry(isinstance(request, MAP), MASKS.index(mask_of(request)), row, column, statistic.learned)
        )
    return tuple(entries)


class Blocks(NamedTuple):
    """How much of a panel is one program's: a tile, and how many features at a time."""

    block_rows: int
    block_columns: int
    block_depth: int
    num_warps: int


SINGLE, HALF, INTERPRETED = Blocks(64, 64, 32, 4), Blocks(128, 64, 64, 8), Blocks(16, 16, 16, 1)


class Panel:
    """A piece of the matrix that is walked by one launch of a kernel.

    Args:
        rows: Of this process; `columns` of the whole batch.
        places: Where the panel lies in both.
    """

    def __init__(self, rows: Tensor, columns: Tensor, places: dict[Axis, slice], whole: Rectangle):
        self.places = places
        self._rows, self._columns = rows[places["row"]], columns[places["column"]]
        first_row = whole.row_start + places["row"].start
        self._offset = first_row - places["column"].start
        batch_rows = slice(first_row, first_row + len(self._rows))
        self._names = (
            *_parts(whole.row_side.labels, whole.column_side.labels, batch_rows, places["column"]),
            *_parts(whole.row_side.ids, whole.column_side.ids, batch_rows, places["column"]),
        )
        self._blocks = INTERPRETED if not rows.is_cuda else SINGLE if rows.dtype == torch.float32 else HALF
        self._sizes: dict[Axis, int] = {"row": len(self._rows), "column": len(self._columns)}
        self._grid = (
            -(-len(self._rows) // self._blocks.block_rows),
            -(-len(self._columns) // self._blocks.block_columns),
        )

    def forward(self, plan: Plan, scales: Tensor, bias: Tensor) -> Vectors:
        """Return what every tile adds to each sum of rows and of columns."""
        num_tiles: dict[Axis, int] = {"row": self._grid[1], "column": self._grid[0]}
        parts = {axis: scales.new_empty(_num_vectors(plan, axis), num_tiles[axis], self._sizes[axis]) for axis in AXES}
        self._launch(_kernels().forward, plan, scales, bias, parts["row"], parts["column"])
        return parts

    def backward(self, plan: Plan, scales: Tensor, bias: Tensor, vectors: Vectors) -> tuple[Tensor, Tensor]:
        """Return the derivative with respect to the cosines, and its sums over tiles for log-scale and bias."""
        derivative = scales.new_empty(self._sizes["row"], self._sizes["column"])
        parts = scales.new_empty(2, self._grid[0] * self._grid[1])
        own = [vectors[axis][..., self.places[axis]].contiguous() for axis in AXES]
        self._launch(_kernels().backward, plan, scales, bias, *own, derivative, parts)
        return derivative, parts

    def _launch(self, kernel: Any, plan: Plan, *tensors: Tensor) -> None:
        sides = (self._rows, self._columns, *self._names)
        sizes = (*self._sizes.values(), self._rows.shape[1], self._offset)
        with torch.cuda.device_of(self._rows):
            kernel[self._grid](*sides, *tensors, *sizes, tuple(map(tuple, plan)), **self._blocks._asdict())


def _place(entry: PlanEntry, axis: Axis) -> int:
    return entry.row if axis == "row" else entry.column


def _num_vectors(plan: Plan, axis: Axis) -> int:
    return sum(_place(entry, axis) >= 0 for entry in plan)


def _parts(
    rows: Int64[Tensor, " b"] | None, columns: Int64[Tensor, " c"] | None, row_places: slice, column_places: slice
) -> tuple[Int64[Tensor, " n"] | None, Int64[Tensor, " m"] | None]:
    """Return the panel's part of what both sides have; nothing where one of them has none."""
    return (None, None) if rows is None or columns is None else (rows[row_places], columns[column_places])


def _finite(level: Tensor) -> Tensor:
    return level.where(level != -torch.inf, 0)


@dataclass
class FusedWalk:
    """One block's walk over the part of this process.

    Args:
        whole: Its rows are not scaled.
        scales: Of each statistic.
        dtype: Of the features as they came: the products of halves are formed from halves, and are exact.
    """

    whole: Rectangle
    statistics: Sequence[Statistic]
    scales: Float[Tensor, " k"]
    bias: Float[Tensor, ""]
    dtype: torch.dtype

    def forward(self) -> None:
        """Add all tiles to the statistics, which have begun without a bound."""
        plan = _plan(self.statistics, [statistic.requests for statistic in self.statistics])
        for panel in self._panels():
            parts = panel.forward(plan, self.scales, self.bias)
            for entry, statistic in zip(plan, self.statistics, strict=True):
                for axis, sums in statistic.results().items():
                    _add(sums[panel.places[axis]], parts[axis][_place(entry, axis)], is_softplus=entry.is_softplus)

    def backward(
        self, memories: Sequence[Vectors], weights: Sequence[Vectors], wants_rows: bool, wants_columns: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """Return the gradients of rows, columns, the logarithm of the scale, and the bias.

        Args:
            memories: What each statistic remembers.
            weights: The gradients of its answers.
        """
        plan = _plan(self.statistics, weights)
        vectors = {axis: self._stack(axis, memories, weights) for axis in AXES}
        rows = torch.zeros_like(self.whole.rows) if wants_rows else None
        columns = torch.zeros_like(self.whole.columns) if wants_columns else None
        scale_and_bias = self.scales.new_zeros(2)
        for panel in self._panels():
            derivative, parts = panel.backward(plan, self.scales, self.bias, vectors)
            scale_and_bias += parts.sum(1)
            if rows is not None:
                rows[panel.places["row"]].addmm_(derivative, self.whole.columns[panel.places["column"]])
            if columns is not None:
                columns[panel.places["column"]].addmm_(derivative.t(), self.whole.rows[panel.places["row"]])
        if self.whole.row_side is self.whole.column_side:
            scale_and_bias /= 2  # the derivative is that of an entry and of its mirror image
        log_scale, bias = scale_and_bias.unbind()
        return rows, columns, log_scale, bias

    def _stack(
        self, axis: Axis, memories: Sequence[Vectors], weights: Sequence[Vectors]
    ) -> Float[Tensor, "places 2 size"]:
        """Return the log-sum-exps and their gradients, of those that have any along this axis."""
        pairs = [
            torch.stack([_finite(memory[axis][:, 0]), weight[axis].where(memory[axis][:, 0] != -torch.inf, 0)])
            for memory, weight in zip(memories, weights, strict=True)
            if axis in weight
        ]
        size = len(self.whole.rows if axis == "row" else self.whole.columns)
        return torch.stack(pairs) if pairs else self.scales.new_empty(0, 2, size)

    def _panels(self) -> Iterator[Panel]:
        # Triton's interpreter multiplies the bits of bfloat16 as integers
        is_broken = self.dtype == torch.bfloat16 and not self.scales.is_cuda
        dtype = torch.float32 if is_broken else self.dtype
        rows, columns = (features.to(dtype).contiguous() for features in (self.whole.rows, self.whole.columns))
        for i in range(0, len(rows), PANEL_SIZE):
            for j in range(0, len(columns), PANEL_SIZE):
                at: dict[Axis, slice] = {"row": slice(i, i + PANEL_SIZE), "column": slice(j, j + PANEL_SIZE)}
                yield Panel(rows, columns, at, self.whole)


def _add(sums: Tensor, parts: Float[Tensor, "tiles size"], *, is_softplus: bool) -> None:
    if is_softplus:
        sums.add_(parts.sum(0))
    else:
        torch.logaddexp(sums, parts.logsumexp(0), out=sums)
