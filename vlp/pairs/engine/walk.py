"""`pair_stats`: numbers per row and per column of similarity matrices that never exist.

Forward: one product per tile feeds every request. Backward: the tile is computed again (or was kept, where memory
allows), becomes the derivative with respect to the logits, and two more products make the gradients of its rows and
columns. A pointwise sum alone needs no second walk.

Several processes: each walks its own rows against everyone's columns, so that every tile is computed once. Sums of
columns are completed by one reduction of numbers per column, gradients of columns by one reduction of rows. The sum
over processes of any parameter's gradient is that of one process. The other way, by which no gradient travels and each
process walks its rows and its columns, takes six products instead of four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlp.ground import dist
from vlp.pairs.engine.fused import Backend, FusedWalk, is_chosen
from vlp.pairs.engine.gradients import BackwardWalk, ForwardGradients
from vlp.pairs.engine.plain_sums import PointwiseSum
from vlp.pairs.engine.plan import plan_statistics
from vlp.pairs.engine.softmax_sums import LogSumExp
from vlp.pairs.engine.statistic import Statistic, Vectors, axis_of, is_differentiable
from vlp.pairs.engine.tiles import TILE_SIZE, Rectangle, TileMemory
from vlp.pairs.requests import LSE, WMEAN, Block, Request, Stats

KEPT_BYTES = 64 * 2**20  # a batch of 4096 on one process in float32; what is larger is computed twice in part


def pair_stats(
    blocks: Mapping[str, Block],
    requests: Mapping[str, Sequence[Request]],
    group: dist.Group = None,
    *,
    tile_size: int = TILE_SIZE,
    kept_bytes: int = KEPT_BYTES,
    memory: TileMemory | None = None,
    backend: Backend = "auto",
) -> Stats:
    """Answer requests about similarity matrices, keyed by (block, request).

    Each answer has one number per local row or column, unless the request says otherwise. Float64 stays float64; all
    else is computed in float32.

    Args:
        requests: For each block what to compute; equal requests are computed once.
        tile_size: Rows and columns of a tile; Triton has sizes of its own.
        kept_bytes: So much of each matrix is kept, tile by tile, for the backward pass: three products, not four.
        memory: Of tiles, to be used again by the next call.
        backend: `auto` takes Triton on CUDA for blocks whose requests all have kernels, and tiles elsewhere.

    Raises:
        ValueError: A symmetric block is asked about its columns, which equal its rows, or for individual scales; or
            Triton is asked for what it cannot answer.
    """
    if torch.compiler.is_compiling():
        # not a decorator: `disable` imports the compiler, 4 s that only a compiled program should pay
        return torch.compiler.disable(_pair_stats)(blocks, requests, group, tile_size, kept_bytes, memory, backend)
    return _pair_stats(blocks, requests, group, tile_size, kept_bytes, memory, backend)


def _pair_stats(
    blocks: Mapping[str, Block],
    requests: Mapping[str, Sequence[Request]],
    group: dist.Group,
    tile_size: int,
    kept_bytes: int,
    memory: TileMemory | None,
    backend: Backend,
) -> Stats:
    stats: Stats = {}
    memory = memory or TileMemory()
    for name, wanted in requests.items():
        unique = tuple(dict.fromkeys(wanted))
        block = blocks[name]
        if block.symmetric:
            _check_symmetric(name, unique)
        with torch.autocast(block.rows.local.device.type, enabled=False):
            call = _Call(block, unique, group, tile_size, kept_bytes, memory, is_chosen(backend, block, unique))
            columns = None if block.symmetric else block.columns.local
            answers = _PairStats.apply(call, block.rows.local, columns, block.scale, block.bias)
        stats.update({(name, request): answer for request, answer in zip(unique, answers, strict=True)})
    return stats


def _check_symmetric(name: str, requests: Sequence[Request]) -> None:
    if any(axis_of(request) == "column" for request in requests):
        raise ValueError(f"block '{name}' is symmetric: ask for its rows")
    if any(isinstance(request, LSE | WMEAN) and request.individual for request in requests):
        raise ValueError(f"block '{name}' is symmetric, individual scales would make it something else")


@dataclass(frozen=True)
class _Call:
    block: Block
    requests: tuple[Request, ...]
    group: dist.Group
    tile_size: int
    kept_bytes: int
    memory: TileMemory
    is_fused: bool


_Recalled = tuple[Statistic, float | None, Vectors, Vectors]


class _PairStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: _Call, rows: Tensor, columns: Tensor | None, scale: Tensor, bias: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.walker = _Walker(call, rows, columns, scale, bias)
        ctx.dtypes = (rows.dtype, rows.dtype if columns is None else columns.dtype, scale.dtype, bias.dtype)
        answers = ctx.walker.forward(ctx.needs_input_grad[1:])
        ctx.mark_non_differentiable(
            *(a for a, request in zip(answers, call.requests, strict=True) if not is_differentiable(request))
        )
        return answers

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
        alone = dist.world_size(call.group) == 1
        self.is_triangular = self.symmetric and (alone or not call.is_fused)
        self._rows = rows.detach().to(dtype)
        local = self._rows if columns is None else columns.detach().to(dtype)
        self._columns = local if alone else block.columns.everyone.to(dtype)
        self._num_local_columns = len(local)
        self._rank = dist.rank(call.group)
        self._feature_dtype = rows.dtype if columns is None else torch.promote_types(rows.dtype, columns.dtype)
        self.scale, self._bias = scale.detach().to(dtype), bias.detach().to(dtype)
        self.statistics = plan_statistics(call.requests, self._bias)
        self.bounds = self._bound_logits()
        first = self.statistics[0]
        self.base = self._scale_of(first)
        self.ratios = [
            None if (s.learned, s.factor) == (first.learned, first.factor) else self._scale_of(s) / self.base
            for s in self.statistics
        ]
        self._memory: dict[Request, Tensor] = {}
        self.kept: dict[tuple[int, int], Tensor] = {}
        self.kept_shift: float | None = None
        self.early: ForwardGradients | None = None

    def _scale_of(self, statistic: Statistic) -> Tensor:
        return self.scale * statistic.factor if statistic.learned else self.scale.new_full((), statistic.factor)

    def _bound_logits(self) -> list[float | None]:
        """Return what no logit exceeds; reading it would make an accelerator wait, so only the CPU knows."""
        if self.call.is_fused or self._rows.device.type != "cpu" or not len(self._rows):
            return [None] * len(self.statistics)
        norms = torch.stack([features.norm(dim=1).max() for features in (self._rows, self._columns)])
        cosine = 1.001 * float(dist.all_reduce_max(norms, self.call.group).prod())
        return [cosine * abs(float(self._scale_of(statistic))) for statistic in self.statistics]

    def rectangle(self) -> Rectangle:
        """Return what this process walks: its rows, everyone's columns."""
        block = self.call.block
        return Rectangle(
            self._rows if self.call.is_fused else self._rows * self.base,
            self._columns,
            row_start=self._rank * len(self._rows),
            row_side=block.rows,
            column_side=block.columns,
            triangular=self.is_triangular,
            stored=self.kept,
            memory=self.call.memory,
        )

    def forward(self, wanted: Sequence[bool]) -> tuple[Tensor, ...]:
        """Return the answers in the order of the requests; keeps no hold on them, for they will own this walker.

        Args:
            wanted: Whether the gradients of rows, columns, scale and bias will be.
        """
        whole = self.rectangle()
        self._walk(whole, self.bounds, wanted)
        if None not in self.bounds and not self._all_trusted():
            self.kept.clear()
            self._walk(whole, [None] * len(self.bounds), [False] * len(wanted))
        answers: dict[Request, Tensor] = {}
        for statistic in self.statistics:
            for axis, result in statistic.results().items():
                is_whole = statistic.per_sample and (axis == "column" or self.is_triangular)
                answers[statistic.requests[axis]] = (self._local_part(result) if is_whole else result).clone()
            for axis, memory in statistic.saved_for_backward().items():
                is_whole = axis == "row" and self.is_triangular
                self._memory[statistic.requests[axis]] = self._local_part(memory) if is_whole else memory
        return tuple(answers[request] for request in self.call.requests)

    def _walk(self, whole: Rectangle, bounds: Sequence[float | None], wanted: Sequence[bool]) -> None:
        for statistic, bound in zip(self.statistics, bounds, strict=True):
            statistic.begin_forward(whole, bound)
        if self.call.is_fused:
            self._fused_walk(whole).forward()
        else:
            self._walk_tiles(whole, wanted)
        for statistic in self.statistics:
            statistic.merge_processes(self.call.group)

    def _walk_tiles(self, whole: Rectangle, wanted: Sequence[bool]) -> None:
        statistic = self.statistics[0]
        alone = len(self.statistics) == 1 and wanted[0]
        if alone and isinstance(statistic, PointwiseSum) and not self.symmetric and None not in self.bounds:
            self.early = ForwardGradients(whole, wanted[1])
            self.early.walk(statistic, self.call.tile_size)
            return
        if alone and isinstance(statistic, LogSumExp):
            self.kept_shift = statistic.shift
        self._add_tiles(whole, self.call.kept_bytes if any(wanted) else 0)

    def _add_tiles(self, whole: Rectangle, store_bytes: int) -> None:
        last = len(self.statistics) - 1
        for tile in whole.tiles(self.call.tile_size, store_bytes=store_bytes):
            for k, statistic in enumerate(self.statistics):
                is_left = self.kept_shift is not None and tile.is_kept
                statistic.add(tile, tile.logits if is_left else tile.take(self.ratios[k], keep=k != last))

    def _fused_walk(self, whole: Rectangle) -> FusedWalk:
        scales = torch.stack([self._scale_of(statistic) for statistic in self.statistics])
        return FusedWalk(whole, self.statistics, scales, self._bias, self._feature_dtype)

    def _all_trusted(self) -> bool:
        doubted = not all(statistic.is_exact() for statistic in self.statistics)
        return not bool(dist.all_reduce_max(self.scale.new_tensor(float(doubted)), self.call.group))

    def _local_part(self, values: Tensor) -> Tensor:
        start = self._rank * self._num_local_columns
        return values[start : start + self._num_local_columns]

    def backward(self, gradients: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
        """Return the gradients of rows, columns, scale and bias; None where not `wanted`."""
        recalled = self._recall(
            {r: g for r, g in zip(self.call.requests, gradients, strict=True) if is_differentiable(r)}
        )
        walk_back = self._fused_walk_back if self.call.is_fused else self._walk_back
        rows, columns, scale, bias = walk_back(recalled, wanted)
        if rows is not None and self.is_triangular:
            rows = dist.reduce_scatter_rows(rows, self.call.group)
        if columns is not None:
            columns = dist.reduce_scatter_rows(columns, self.call.group)
        return rows, columns, scale, bias

    def _walk_back(self, recalled: Sequence[_Recalled], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
        if self.early is not None:
            early = self.early.of_mean(recalled[0][3]["row"], self.scale, self.base)
            if early is not None:
                return early
        for statistic, bound, memory, weights in recalled:
            statistic.begin_backward(memory, weights, bound, self.call.group)
        self._drop_kept_of_another_shift()
        used = [(s, ratio) for s, ratio in zip(self.statistics, self.ratios, strict=True) if s.differentiable]
        walk = BackwardWalk(
            self.rectangle(),
            self.scale,
            self.base,
            used,
            wanted,
            self.call.tile_size,
            stored_exponentials=self.kept_shift is not None,
        )
        return walk.rows, walk.columns, walk.scale, walk.bias

    def _drop_kept_of_another_shift(self) -> None:
        statistic = self.statistics[0]
        if self.kept_shift is not None and isinstance(statistic, LogSumExp) and statistic.shift_back != self.kept_shift:
            self.kept.clear()

    def _fused_walk_back(self, recalled: Sequence[_Recalled], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
        _, _, memories, weights = zip(*recalled, strict=True)
        rows, columns, log_scale, bias = self._fused_walk(self.rectangle()).backward(memories, weights, *wanted[:2])
        return rows, columns, log_scale / self.scale, bias

    def _recall(self, gradients: dict[Request, Tensor]) -> list[_Recalled]:
        """Return for each statistic its bound, its memory and its gradients, those of everyone's columns included."""
        local = {request: gradient.to(self._rows.dtype) for request, gradient in gradients.items()}
        whole = self._whole_columns(local)
        recalled: list[_Recalled] = []
        for statistic, bound in zip(self.statistics, self.bounds, strict=True):
            if not statistic.differentiable:
                continue
            memory: Vectors = {a: self._memory[r] for a, r in statistic.requests.items() if r in self._memory}
            weights: Vectors = {a: whole[r] if a == "column" else local[r] for a, r in statistic.requests.items()}
            if self.symmetric and memory:
                request = statistic.requests["row"]
                weights["column"] = whole[request][:, 0]
                memory["column"] = whole[request][:, 1:]
                if self.is_triangular:
                    weights["row"], memory["row"] = weights["column"], memory["column"]
            recalled.append((statistic, bound, memory, weights))
        return recalled

    def _whole_columns(self, gradients: dict[Request, Tensor]) -> dict[Request, Tensor]:
        """Gather what belongs to columns, in one collective: gradients; of a symmetric block, memory of rows too."""
        parts: dict[Request, Tensor] = {}
        for request, gradient in gradients.items():
            if axis_of(request) == "column":
                parts[request] = gradient[:, None]
            elif self.symmetric and request in self._memory:
                parts[request] = torch.cat([gradient[:, None], self._memory[request]], dim=1)
        if not parts:
            return {}
        everyone = dist.all_gather_rows(torch.cat(list(parts.values()), dim=1), self.call.group)
        widths = [part.shape[1] for part in parts.values()]
        whole = dict(zip(parts, everyone.split(widths, dim=1), strict=True))
        return {request: rows if self.symmetric else rows[:, 0].contiguous() for request, rows in whole.items()}
