"""The walk on CUDA: Triton answers the requests of a block from products that never leave the chip.

The matrix is cut into panels. Forward: each tile of a panel leaves one number per row and per column, which are then
added up. Backward: the derivative of one panel exists at a time, and two library products make gradients of it: three
products for any number of features, on matrix units and with the digits of float32 (`split_products`). Kernels that
keep the gradients on the chip need four, and more as soon as a row of features does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlp.pairs.engine.gradients import Gradients, WantedGradients
from vlp.pairs.engine.matrix import Matrix
from vlp.pairs.engine.plain_sums import PointwiseSum
from vlp.pairs.engine.softmax_sums import LogSumExp
from vlp.pairs.engine.split_products import Numerics, add_product_, parts_of, transposed
from vlp.pairs.engine.statistic import AXES, Returned, Statistic, Vectors
from vlp.pairs.engine.tiles import Rectangle
from vlp.pairs.functions import SOFTPLUS
from vlp.pairs.requests import LSE, MAP, Axis, Block, Mask, Request, mask_of

Backend = Literal["auto", "tiles", "triton"]
PANEL_SIZE: dict[Axis, int] = {"row": 2048, "column": 4096}  # 32 MB of derivatives, which a second-level cache holds
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


SINGLE, HALF, INTERPRETED = Blocks(128, 64, 32, 8), Blocks(128, 64, 64, 8), Blocks(16, 16, 16, 1)
PRECISIONS: dict[Numerics, str] = {"exact": "tf32x3", "fast": "tf32"}


def precision_of(features: Tensor, numerics: Numerics) -> str:
    """Return how a kernel multiplies features; the products of halves are exact in any case."""
    return PRECISIONS[numerics] if features.is_cuda and features.dtype == torch.float32 else "ieee"


class Panel:
    """A piece of the matrix that is walked by one launch of a kernel.

    Args:
        rows: Of this process; `columns` of the whole batch.
        places: Where the panel lies in both.
        numerics: How float32 is multiplied.
    """

    def __init__(self, rows: Tensor, columns: Tensor, places: dict[Axis, slice], whole: Rectangle, numerics: Numerics):
        self.places = places
        self._rows, self._columns = rows[places["row"]], columns[places["column"]]
        first_row = whole.row_start + places["row"].start
        self._offset = first_row - places["column"].start
        batch_rows = slice(first_row, first_row + len(self._rows))
        self._names = (
            *_parts(whole.row_side.labels, whole.column_side.labels, batch_rows, places["column"]),
            *_parts(whole.row_side.ids, whole.column_side.ids, batch_rows, places["column"]),
        )
        self._precision = precision_of(rows, numerics)
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
            chosen = self._blocks._asdict() | {"precision": self._precision}
            kernel[self._grid](*sides, *tensors, *sizes, tuple(map(tuple, plan)), **chosen)


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


class FusedWalk:
    """The path on CUDA: panels, whose tiles only kernels see.

    Args:
        matrix: Every statistic of it has a kernel.
    """

    def __init__(self, matrix: Matrix, wanted: WantedGradients):
        self._matrix, self._whole, self._wanted = matrix, matrix.part, wanted

    def forward(self) -> None:
        """Add every tile to the statistics, which have begun without a bound."""
        statistics = self._statistics()
        plan = _plan(statistics, [statistic.requests for statistic in statistics])
        scales = self._scales()
        for panel in self._panels():
            parts = panel.forward(plan, scales, self._matrix.bias)
            for entry, statistic in zip(plan, statistics, strict=True):
                for axis in statistic.requests:
                    statistic.add_parts(axis, panel.places[axis], parts[axis][_place(entry, axis)])

    def backward(self, returned: Sequence[Returned]) -> Gradients:
        """Turn one panel after the other into its derivative, and that into gradients."""
        statistics, scales, whole = self._statistics(), self._scales(), self._whole
        plan = _plan(statistics, [gradients for _, gradients in returned])
        vectors = {axis: self._stack(axis, returned) for axis in AXES}
        rows = torch.zeros_like(whole.rows) if self._wanted.rows else None
        columns = torch.zeros_like(whole.columns) if self._wanted.columns else None
        scale_and_bias = scales.new_zeros(2)
        for panel in self._panels():
            derivative, parts = panel.backward(plan, scales, self._matrix.bias, vectors)
            scale_and_bias += parts.sum(1)
            slopes = parts_of(derivative, self._matrix.numerics)
            if rows is not None:
                others = parts_of(whole.columns[panel.places["column"]], self._matrix.numerics)
                add_product_(rows[panel.places["row"]], slopes, others)
            if columns is not None:
                others = parts_of(whole.rows[panel.places["row"]], self._matrix.numerics)
                add_product_(columns[panel.places["column"]], transposed(slopes), others)
        if whole.is_symmetric:
            scale_and_bias /= 2  # the derivative is that of an entry and of its mirror image
        log_scale, bias = scale_and_bias.unbind()
        return Gradients(rows, columns, log_scale / self._matrix.scale, bias)

    def _statistics(self) -> list[LogSumExp | PointwiseSum]:
        found = [s for s in self._matrix.statistics if isinstance(s, LogSumExp | PointwiseSum)]
        assert len(found) == len(self._matrix.statistics), "`is_chosen` looks for kernels"
        return found

    def _scales(self) -> Float[Tensor, " k"]:
        return torch.stack([self._matrix.scale_of(statistic) for statistic in self._matrix.statistics])

    def _stack(self, axis: Axis, returned: Sequence[Returned]) -> Float[Tensor, "places 2 size"]:
        """Return the log-sum-exps and their gradients, of those that have any along this axis."""
        pairs = [
            torch.stack([_finite(saved[axis][:, 0]), gradients[axis].where(saved[axis][:, 0] != -torch.inf, 0)])
            for saved, gradients in returned
            if axis in gradients
        ]
        size = len(self._whole.rows if axis == "row" else self._whole.columns)
        return torch.stack(pairs) if pairs else self._matrix.scale.new_empty(0, 2, size)

    def _panels(self) -> Iterator[Panel]:
        # Triton's interpreter multiplies the bits of bfloat16 as integers
        is_broken = self._matrix.feature_dtype == torch.bfloat16 and not self._whole.rows.is_cuda
        # as they came: the products of halves are formed from halves, and are exact
        dtype = torch.float32 if is_broken else self._matrix.feature_dtype
        rows, columns = (features.to(dtype).contiguous() for features in (self._whole.rows, self._whole.columns))
        high, wide = PANEL_SIZE["row"], PANEL_SIZE["column"]
        for i in range(0, len(rows), high):
            for j in range(0, len(columns), wide):
                at: dict[Axis, slice] = {"row": slice(i, i + high), "column": slice(j, j + wide)}
                yield Panel(rows, columns, at, self._whole, self._matrix.numerics)
