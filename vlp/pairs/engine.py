"""`pair_stats`: numbers per row and per column of similarity matrices that never exist.

Forward: one product per tile feeds every request. Backward: the tile is computed again, becomes the derivative with
respect to the logits, and two more products make the gradients of its rows and columns.

Several processes: rows are local embeddings against everyone's columns, columns likewise. Each process needs the
statistics of the others, and the loss gradients of these (numbers per row, not embeddings), to form the exact
gradient of its own samples; the sum over processes of any parameter's gradient is that of one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlp import dist
from vlp.pairs.requests import MAP, Axis, Block, Request, Stats
from vlp.pairs.statistics import Statistic, Vectors, plan_statistics
from vlp.pairs.tiles import TILE_SIZE, Rectangle, Tile


def pair_stats(
    blocks: Mapping[str, Block],
    requests: Mapping[str, Sequence[Request]],
    group: dist.Group = None,
    *,
    tile_size: int = TILE_SIZE,
) -> Stats:
    """Answer requests about similarity matrices, keyed by (block, request).

    Each answer has one number per local row or column. Float64 stays float64; all else is computed in float32.

    Args:
        requests: For each block what to compute; equal requests are computed once.
        tile_size: Rows and columns of a tile.

    Raises:
        ValueError: A symmetric block is asked about its columns, which equal its rows.
    """
    if torch.compiler.is_compiling():
        # not a decorator: `disable` imports the compiler, 4 s that only a compiled program should pay
        return torch.compiler.disable(_pair_stats)(blocks, requests, group, tile_size)
    return _pair_stats(blocks, requests, group, tile_size)


def _pair_stats(
    blocks: Mapping[str, Block], requests: Mapping[str, Sequence[Request]], group: dist.Group, tile_size: int
) -> Stats:
    stats: Stats = {}
    for name, wanted in requests.items():
        unique = tuple(dict.fromkeys(wanted))
        block = blocks[name]
        if block.symmetric and any(not isinstance(r, MAP) and r.axis == "column" for r in unique):
            raise ValueError(f"block '{name}' is symmetric: ask for its rows")
        with torch.autocast(block.rows.local.device.type, enabled=False):
            call = _Call(block, unique, group, tile_size)
            columns = None if block.symmetric else block.columns.local
            answers = _PairStats.apply(call, block.rows.local, columns, block.scale, block.bias)
        stats.update({(name, request): answer for request, answer in zip(unique, answers, strict=True)})
    return stats


@dataclass(frozen=True)
class _Call:
    block: Block
    requests: tuple[Request, ...]
    group: dist.Group
    tile_size: int


class _PairStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: _Call, rows: Tensor, columns: Tensor | None, scale: Tensor, bias: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.walker = _Walker(call, rows, columns, scale, bias)
        ctx.dtypes = (rows.dtype, rows.dtype if columns is None else columns.dtype, scale.dtype, bias.dtype)
        return ctx.walker.forward()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        results = ctx.walker.backward(gradients, wanted)
        typed = (
            result.to(dtype) if result is not None and wants else None
            for result, dtype, wants in zip(results, ctx.dtypes, wanted, strict=True)
        )
        return None, *typed


class _Walker:
    """One block's walk forward and back."""

    def __init__(self, call: _Call, rows: Tensor, columns: Tensor | None, scale: Tensor, bias: Tensor):
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        block, self.call = call.block, call
        self.symmetric = block.symmetric
        self._alone = dist.world_size(call.group) == 1
        self._rows = rows.detach().to(dtype)
        self._columns = self._rows if columns is None else columns.detach().to(dtype)
        self._all_rows = self._rows if self._alone else block.rows.everyone.to(dtype)
        self._all_columns = self._columns if self._alone else block.columns.everyone.to(dtype)
        self._reference = None if block.reference is None else block.reference.to(dtype)
        self._start = dist.rank(call.group) * len(rows)
        self.scale = scale.detach().to(dtype)
        self.statistics = plan_statistics(call.requests, bias.detach().to(dtype))
        self.bounds = self._bound_logits()
        first = self.statistics[0]
        self.base = self._scale_of(first)
        self.ratios = [
            None if (s.learned, s.factor) == (first.learned, first.factor) else self._scale_of(s) / self.base
            for s in self.statistics
        ]
        self._memory: dict[Request, Tensor] = {}

    def _scale_of(self, statistic: Statistic) -> Tensor:
        return self.scale * statistic.factor if statistic.learned else self.scale.new_tensor(statistic.factor)

    def _bound_logits(self) -> list[float | None]:
        """Return what no logit exceeds; reading it would make an accelerator wait, so only the CPU knows."""
        if self._rows.device.type != "cpu":
            return [None] * len(self.statistics)
        norms = (features.norm(dim=1).max() for features in (self._all_rows, self._all_columns))
        cosine = 1.001 * float(next(norms) * next(norms))
        return [cosine * abs(float(self._scale_of(statistic))) for statistic in self.statistics]

    def _rectangle(self, rows: Tensor, columns: Tensor, row_start: int, column_start: int) -> Rectangle:
        triangular = self.symmetric and self._alone
        return Rectangle(
            rows * self.base, columns, row_start, column_start, self.call.block.labels, self._reference, triangular
        )

    def _local_rows(self) -> Rectangle:
        return self._rectangle(self._rows, self._all_columns, self._start, 0)

    def _local_columns(self) -> Rectangle:
        return self._rectangle(self._all_rows, self._columns, 0, self._start)

    def forward(self) -> tuple[Tensor, ...]:
        """Return the answers in the order of the requests; keeps no hold on them, for they will own this walker."""
        answers: dict[Request, Tensor] = {}
        if self._alone or self.symmetric:
            self._add_up(answers, self._local_rows(), ("row", "column"))
        else:
            self._add_up(answers, self._local_rows(), ("row",))
            self._add_up(answers, self._local_columns(), ("column",))
        return tuple(answers[request] for request in self.call.requests)

    def _add_up(self, answers: dict[Request, Tensor], whole: Rectangle, axes: tuple[Axis, ...]) -> None:
        active = [k for k, s in enumerate(self.statistics) if any(axis in axes for axis in s.requests)]
        if not active:
            return
        self._walk_forward(whole, axes, active, self.bounds)
        if not all(self.statistics[k].trusted() for k in active):
            self._walk_forward(whole, axes, active, [None] * len(self.bounds))
        for k in active:
            statistic = self.statistics[k]
            for axis, result in statistic.results().items():
                answers[statistic.requests[axis]] = result.clone()
            for axis, memory in statistic.memory().items():
                self._memory[statistic.requests[axis]] = memory

    def _walk_forward(
        self, whole: Rectangle, axes: tuple[Axis, ...], active: list[int], bounds: Sequence[float | None]
    ) -> None:
        for k in active:
            statistic = self.statistics[k]
            statistic.begin(whole, [axis for axis in statistic.requests if axis in axes], bounds[k])
        for tile in whole.tiles(self.call.tile_size):
            for k in active:
                self.statistics[k].add(tile, tile.take(self.ratios[k], keep=k != active[-1]))

    def backward(self, gradients: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
        """Return the gradients of rows, columns, scale and bias; None where not `wanted`."""
        self._load(dict(zip(self.call.requests, gradients, strict=True)))
        wants_rows, wants_columns, wants_scale, wants_bias = wanted
        if self._alone and not self.symmetric:
            walk = _BackwardWalk(self, self._local_rows(), wants_rows, wants_columns, wants_scale, wants_bias)
            return walk.rows, walk.columns, walk.scale, walk.bias
        walk = _BackwardWalk(self, self._local_rows(), wants_rows, False, wants_scale, wants_bias)
        if self.symmetric or not wants_columns:
            return walk.rows, None, walk.scale, walk.bias
        other = _BackwardWalk(self, self._local_columns(), False, True, False, False)
        return walk.rows, other.columns, walk.scale, walk.bias

    def _load(self, gradients: dict[Request, Tensor]) -> None:
        """Give each statistic the memory and the gradients of the whole batch, in one collective."""
        order = list(gradients)
        packed = torch.stack([v for r in order for v in (self._memory[r], gradients[r].to(self._rows.dtype))], dim=1)
        everyone = dist.all_gather_rows(packed, self.call.group).t().contiguous()
        place = {request: 2 * k for k, request in enumerate(order)}
        for statistic, bound in zip(self.statistics, self.bounds, strict=True):
            memory: Vectors = {axis: everyone[place[r]] for axis, r in statistic.requests.items()}
            weights: Vectors = {axis: everyone[place[r] + 1] for axis, r in statistic.requests.items()}
            if self.symmetric:
                memory["column"], weights["column"] = memory["row"], weights["row"]
            statistic.load(memory, weights, bound)


class _BackwardWalk:
    """Gradients of one rectangle, added up tile by tile."""

    def __init__(
        self,
        walker: _Walker,
        whole: Rectangle,
        wants_rows: bool,
        wants_columns: bool,
        wants_scale: bool,
        wants_bias: bool,
    ):
        self._walker, self._whole = walker, whole
        statistics = walker.statistics
        num_learned = sum(statistic.learned for statistic in statistics)
        self._num_learned = num_learned
        self._scale_by_rows = wants_rows and num_learned == len(statistics)
        self._scale_by_tile = wants_scale and not self._scale_by_rows and num_learned > 0
        self._wants_bias = wants_bias and any(statistic.biased for statistic in statistics)
        self._row_sums = torch.zeros_like(whole.rows) if wants_rows else None
        self._column_sums = torch.zeros_like(whole.columns) if wants_columns else None
        self._scale_sum, self._bias_sum = whole.rows.new_zeros(()), whole.rows.new_zeros(())
        if wants_rows or wants_columns or wants_scale or wants_bias:
            for tile in whole.tiles(walker.call.tile_size):
                self._add(tile)
        self.columns = self._column_sums
        self.scale = self._finish_scale() if wants_scale else None
        self.bias = self._bias_sum if wants_bias else None
        self.rows = None if self._row_sums is None else self._row_sums.mul_(walker.base)

    def _share(self, tile: Tile) -> float:
        """Return how often the matrix holds each number of the symmetrised derivative: off the diagonal once."""
        return 0.5 if self._walker.symmetric and not tile.mirrored else 1.0

    def _add(self, tile: Tile) -> None:
        derivative = self._derivative(tile)
        if self._row_sums is not None:
            self._row_sums[tile.rows].addmm_(derivative, self._whole.columns[tile.columns])
            if tile.mirrored:
                self._row_sums[tile.columns].addmm_(derivative.t(), self._whole.columns[tile.rows])
        if self._column_sums is not None:
            self._column_sums[tile.columns].addmm_(derivative.t(), self._whole.rows[tile.rows])

    def _derivative(self, tile: Tile) -> Tensor:
        """Return the derivative of the loss with respect to the logits of the tile."""
        statistics, ratios = self._walker.statistics, self._walker.ratios
        if len(statistics) == 1 and not self._scale_by_tile:
            logits = tile.take(None, keep=False)
            self._weigh(statistics[0], tile, logits)
            return logits
        derivative = tile.buffer("derivative").zero_()
        for k, (statistic, ratio) in enumerate(zip(statistics, ratios, strict=True)):
            logits = tile.take(ratio, keep=True)
            self._weigh(statistic, tile, logits)
            derivative.add_(logits) if ratio is None else derivative.addcmul_(logits, ratio)
            if self._scale_by_tile and k + 1 == self._num_learned:
                self._scale_sum += self._share(tile) * torch.dot(derivative.view(-1), tile.logits.view(-1))
        return derivative

    def _weigh(self, statistic: Statistic, tile: Tile, logits: Tensor) -> None:
        statistic.weigh(tile, logits)
        if self._wants_bias and statistic.biased:
            self._bias_sum += self._share(tile) * logits.sum()

    def _finish_scale(self) -> Tensor:
        if self._scale_by_rows:
            assert self._row_sums is not None
            total = (self._row_sums * self._whole.rows).sum()
            self._scale_sum = total / 2 if self._walker.symmetric else total
        return self._scale_sum / self._walker.scale
