"""The walk on CUDA: Triton answers the requests of a block from products that never leave the chip.

The matrix is cut into panels. Forward: each tile of a panel leaves one number per row and per column, which are then
added up. Backward: the derivative of one panel exists at a time, and two library products make gradients of it: three
products for any number of features, on matrix units and with the digits of float32 (`split_products`). Kernels that
keep the gradients on the chip need four, and more as soon as a row of features does not fit.

Several widths of the same embeddings are walked together, as `nested` says: tiles are read at each width while their
products are added up. `fused_sums` counts what that costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlp.pairs.engine.fused_plan import (
    KINDS,
    NUM_SUMS,
    NUM_VECTORS,
    Levels,
    Plan,
    has_kernel,
    has_types,
    num_vectors,
    own_scale_of,
    plan_levels,
    plan_walk,
    references_of,
    request_of,
)
from vlp.pairs.engine.fused_sums import FusedSums, PanelDerivatives
from vlp.pairs.engine.gradients import Gradients, WantedGradients
from vlp.pairs.engine.nested import Level
from vlp.pairs.engine.plain_sums import KernelSum, PointwiseSum
from vlp.pairs.engine.softmax_sums import LogSumExp, SoftmaxMean
from vlp.pairs.engine.split_products import Numerics, is_split
from vlp.pairs.engine.statistic import AXES, Returned, Statistic, Vectors
from vlp.pairs.engine.tiles import Rectangle, cut
from vlp.pairs.kernel_blocks import blocks_for
from vlp.pairs.requests import Axis, Block, Request, Side, kernel_of

Backend = Literal["auto", "tiles", "triton"]
PANEL_SIZE: dict[Axis, int] = {"row": 2048, "column": 4096}  # 32 MB of derivatives, which a second-level cache holds
OLDEST_CAPABILITY = (8, 0)  # of a CUDA device, for Triton


def share_out(backend: Backend, block: Block, requests: Sequence[Request]) -> dict[bool, list[Request]]:
    """Return which requests about a block kernels answer (True), and which of them tiles; none where it is not asked.

    Raises:
        ValueError: `backend` says that all go to kernels, but there is a request or a type without one.
    """
    known = [request for request in requests if has_types(block) and has_kernel(request)]
    if backend == "triton" and len(known) < len(requests):
        raise ValueError(
            "backend 'triton' answers LSE, WMEAN, KMEAN, WSUM and MAP(SOFTPLUS) in 32 bits or less, with the kernels "
            "of vlp.pairs; 'auto' takes it where it can"
        )
    is_on = backend == "triton" or (backend == "auto" and bool(known) and _runs_on(block.rows.local.device))
    fused = known if is_on else []
    shares = {True: fused, False: [request for request in requests if request not in fused]}
    return {is_fused: share for is_fused, share in shares.items() if share}


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


PRECISIONS: dict[Numerics, str] = {"exact": "tf32x3", "fast": "tf32"}


def precision_of(features: Tensor, numerics: Numerics) -> str:
    """Return how a kernel multiplies features; the products of halves are exact in any case."""
    return PRECISIONS[numerics] if features.is_cuda and features.dtype == torch.float32 else "ieee"


class Numbers(NamedTuple):
    """What kernels read of a walk: the scale of each statistic and the parameter of its kernel, and the bias."""

    scales: Float[Tensor, " k"]
    parameters: Float[Tensor, " k"]
    bias: Float[Tensor, ""]


class Further(NamedTuple):
    """What some entries of a plan read beside the features: of the whole batch, None where no entry does.

    Args:
        references: Features that kernels see the products of, those of all names side by side.
        scales: Of single rows or columns.
        norms: Inverse ones of first coordinates, a row for each width that was cut; of what is walked.
    """

    references: Float[Tensor, "b r"] | None
    scales: Float[Tensor, " b"] | None
    norms: Float[Tensor, "cut n"] | None


class Panel:
    """A piece of the matrix that is walked by one launch of a kernel.

    Args:
        rows: The panel's, of this process; `columns` of the whole batch.
        places: Where they lie in both.
        further: Of both sides.
        numerics: How float32 is multiplied.
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor,
        places: dict[Axis, slice],
        whole: Rectangle,
        further: dict[Axis, Further],
        numerics: Numerics,
    ):
        self.places = places
        self._rows, self._columns = rows, columns
        first_row = whole.row_start + places["row"].start
        self._offset = first_row - places["column"].start
        batch_rows = slice(first_row, first_row + len(self._rows))
        self._names = (
            *_parts(whole.row_side.labels, whole.column_side.labels, batch_rows, places["column"]),
            *_parts(whole.row_side.ids, whole.column_side.ids, batch_rows, places["column"]),
            _part(further["row"].scales, batch_rows),
            _part(further["column"].scales, places["column"]),
            _part(further["row"].references, batch_rows),
            _part(further["column"].references, places["column"]),
            *(_contiguous_part(further[axis].norms, places[axis]) for axis in AXES),
        )
        references = further["row"].references
        self._depths = self._rows.shape[1], 0 if references is None else references.shape[1]
        self._precision = precision_of(rows, numerics)
        self._is_split = is_split(rows, numerics)
        self._blocks = blocks_for(rows)
        self._sizes: dict[Axis, int] = {"row": len(self._rows), "column": len(self._columns)}
        self._grid = (
            -(-len(self._rows) // self._blocks.block_rows),
            -(-len(self._columns) // self._blocks.block_columns),
        )

    def forward(self, plan: Plan, levels: Levels, numbers: Numbers) -> Vectors:
        """Return what every tile adds to each sum of rows and of columns, of shape (numbers, tiles, size)."""
        parts = {axis: self._empty_parts(axis, num_vectors(plan, axis, NUM_SUMS), numbers) for axis in AXES}
        self._launch(_kernels().forward, plan, levels, *numbers, parts["row"], parts["column"])
        return parts

    def backward(self, plan: Plan, levels: Levels, numbers: Numbers, vectors: Vectors) -> PanelDerivatives:
        """Return the derivatives with respect to the products, and those of inverse norms, log-scale and bias."""
        own = [vectors[axis][..., self.places[axis]].contiguous() for axis in AXES]
        derivatives = numbers.bias.new_empty(len(levels), *self._sizes.values())
        rests = torch.empty_like(derivatives) if self._is_split else None
        num_cut = sum(level.norms >= 0 for level in levels)
        norms = {axis: self._empty_parts(axis, num_cut, numbers) for axis in AXES}
        parts = numbers.bias.new_empty(2, self._grid[0] * self._grid[1])
        self._launch(_kernels().backward, plan, levels, *numbers, *own, derivatives, rests, *norms.values(), parts)
        products = zip(derivatives) if rests is None else zip(derivatives, rests, strict=True)
        return PanelDerivatives(list(products), {axis: each.sum(1) for axis, each in norms.items()}, parts.sum(1))

    def _empty_parts(self, axis: Axis, count: int, numbers: Numbers) -> Float[Tensor, "count tiles size"]:
        """Return memory for what tiles add along an axis."""
        return numbers.bias.new_empty(count, self._grid[1 if axis == "row" else 0], self._sizes[axis])

    def _launch(self, kernel: Any, plan: Plan, levels: Levels, *tensors: Tensor | None) -> None:
        sides = (self._rows, self._columns, *self._names)
        sizes = (*self._sizes.values(), *self._depths, self._offset)
        with torch.cuda.device_of(self._rows):
            chosen = self._blocks._asdict() | {"precision": self._precision}
            compiled_for = (tuple(map(tuple, plan)), tuple(map(tuple, levels)))
            kernel[self._grid](*sides, *tensors, *sizes, *compiled_for, **chosen)


def _parts(
    rows: Int64[Tensor, " b"] | None, columns: Int64[Tensor, " c"] | None, row_places: slice, column_places: slice
) -> tuple[Int64[Tensor, " n"] | None, Int64[Tensor, " m"] | None]:
    """Return the panel's part of what both sides have; nothing where one of them has none."""
    return (None, None) if rows is None or columns is None else (rows[row_places], columns[column_places])


def _part(values: Tensor | None, places: slice) -> Tensor | None:
    return None if values is None else values[places]


def _contiguous_part(values: Tensor | None, places: slice) -> Tensor | None:
    return None if values is None else values[:, places].contiguous()


def _side_by_side(references: Sequence[Float[Tensor, "b r"]]) -> Float[Tensor, "b s"]:
    return torch.cat(list(references), dim=1) if len(references) > 1 else references[0].contiguous()


class FusedWalk:
    """The path on CUDA: panels, whose tiles only kernels see.

    Args:
        levels: One width of the embeddings or several, narrow ones first; every statistic of them has a kernel.
        whole: What is walked: all coordinates, as they are.
    """

    def __init__(self, levels: Sequence[Level], whole: Rectangle, wanted: WantedGradients):
        self._levels, self._whole, self._wanted = levels, whole, wanted
        self._matrices = [level.matrix for level in levels]
        self._matrix = levels[-1].matrix
        self._plan_levels = plan_levels(
            [level.width for level in levels],
            [level.rows is not None for level in levels],
            [len(matrix.statistics) for matrix in self._matrices],
        )

    def forward(self) -> None:
        """Add every tile to the statistics, which have begun without a bound."""
        statistics = self._statistics()
        plan = self._plan([statistic.requests for statistic in statistics], NUM_SUMS)
        numbers = self._numbers()
        for panel in self._panels():
            parts = panel.forward(plan, self._plan_levels, numbers)
            for entry, statistic in zip(plan, statistics, strict=True):
                for axis in statistic.requests:
                    start = entry.row if axis == "row" else entry.column
                    found = parts[axis][start : start + NUM_SUMS[KINDS[entry.kind]]]
                    statistic.add_parts(axis, panel.places[axis], found)

    def backward(self, returned: Sequence[Returned]) -> Gradients:
        """Turn one panel after the other into its derivatives, and those into gradients."""
        numbers = self._numbers()
        plan = self._plan([gradients for _, gradients in returned], NUM_VECTORS)
        vectors = {axis: self._stack(axis, returned) for axis in AXES}
        sums = FusedSums(self._levels, self._whole, self._wanted)
        for panel in self._panels():
            sums.add(panel.places, panel.backward(plan, self._plan_levels, numbers, vectors))
        return sums.finish()

    def _statistics(self) -> list[LogSumExp | SoftmaxMean | PointwiseSum | KernelSum]:
        kinds = LogSumExp | SoftmaxMean | PointwiseSum | KernelSum
        every = self._every_statistic()
        found = [statistic for statistic in every if isinstance(statistic, kinds)]
        assert len(found) == len(every), "`share_out` looks for kernels"
        return found

    def _every_statistic(self) -> list[Statistic]:
        return [statistic for matrix in self._matrices for statistic in matrix.statistics]

    def _plan(self, axes: Sequence[Iterable[Axis]], numbers: dict[str, int]) -> Plan:
        return plan_walk(self._every_statistic(), axes, self._whole.row_side, numbers)

    def _numbers(self) -> Numbers:
        matrix = self._matrix
        statistics = self._every_statistic()
        kernels = [kernel_of(request_of(statistic)) for statistic in statistics]
        scales = torch.stack([matrix.scale_of(statistic) for statistic in statistics])
        if not any(kernels):
            return Numbers(scales, scales, matrix.bias)  # nothing reads parameters
        parameters = [matrix.scale.new_full((), 0.0 if kernel is None else kernel.parameter) for kernel in kernels]
        return Numbers(scales, torch.stack(parameters), matrix.bias)

    def _stack(self, axis: Axis, returned: Sequence[Returned]) -> Float[Tensor, "numbers size"]:
        """Return what going back reads along an axis, of the statistics that have anything there."""
        vectors = [
            statistic.vectors_back(saved[axis], gradients[axis])
            for statistic, (saved, gradients) in zip(self._statistics(), returned, strict=True)
            if axis in gradients
        ]
        size = len(self._whole.rows if axis == "row" else self._whole.columns)
        return torch.cat(vectors) if vectors else self._matrix.scale.new_empty(0, size)

    def _panels(self) -> Iterator[Panel]:
        # Triton's interpreter multiplies the bits of bfloat16 as integers
        is_broken = self._matrix.feature_dtype == torch.bfloat16 and not self._whole.rows.is_cuda
        # as they came: the products of halves are formed from halves, and are exact
        dtype = torch.float32 if is_broken else self._matrix.feature_dtype
        whole = self._whole
        rows = whole.rows.to(dtype).contiguous()
        row, column = whole.row_side, whole.column_side
        further: dict[Axis, Further] = {"row": self._further("row", row), "column": self._further("column", column)}
        high, wide = PANEL_SIZE["row"], PANEL_SIZE["column"]
        for piece in whole.in_order():
            for of_rows, of_columns in product(cut(0, len(rows), high), cut(piece.start, piece.stop, wide)):
                columns = whole.columns_at(of_columns).to(dtype).contiguous()
                at: dict[Axis, slice] = {"row": of_rows, "column": of_columns}
                yield Panel(rows[of_rows], columns, at, whole, further, self._matrix.numerics)

    def _further(self, axis: Axis, side: Side) -> Further:
        statistics = self._every_statistic()
        norms = [level.rows if axis == "row" else level.columns for level in self._levels]
        are_cut = [each for each in norms if each is not None]
        references = [side.references[name].float() for name in references_of(statistics)]
        is_scaled = any(own_scale_of(request_of(statistic)) == axis for statistic in statistics)
        return Further(
            _side_by_side(references) if references else None,
            side.scales.float() if is_scaled and side.scales is not None else None,
            torch.stack(are_cut) if are_cut else None,
        )
