"""`pair_stats`: numbers per row and per column of similarity matrices that never exist.

Forward: one product per tile feeds every request. Backward: the tile is computed again (or was kept, where memory
allows), becomes the derivative with respect to the logits, and two more products make the gradients of its rows and
columns.

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

from vlp import dist
from vlp.pairs.fused import Backend, FusedWalk, is_chosen
from vlp.pairs.plan import plan_statistics
from vlp.pairs.requests import LSE, WMEAN, Block, Request, Stats
from vlp.pairs.statistics import Statistic, Vectors, axis_of, is_differentiable
from vlp.pairs.tiles import TILE_SIZE, Rectangle, Tile

KEPT_BYTES = 64 * 2**20  # a batch of 4096 on one process in float32; larger ones are computed twice


def pair_stats(
    blocks: Mapping[str, Block],
    requests: Mapping[str, Sequence[Request]],
    group: dist.Group = None,
    *,
    tile_size: int = TILE_SIZE,
    kept_bytes: int = KEPT_BYTES,
    backend: Backend = "auto",
) -> Stats:
    """Answer requests about similarity matrices, keyed by (block, request).

    Each answer has one number per local row or column, unless the request says otherwise. Float64 stays float64; all
    else is computed in float32.

    Args:
        requests: For each block what to compute; equal requests are computed once.
        tile_size: Rows and columns of a tile; Triton has sizes of its own.
        kept_bytes: Matrices up to this size are kept, tile by tile, for the backward pass: three products, not four.
        backend: `auto` takes Triton on CUDA for blocks whose requests all have kernels, and tiles elsewhere.

    Raises:
        ValueError: A symmetric block is asked about its columns, which equal its rows, or for individual scales; or
            Triton is asked for what it cannot answer.
    """
    if torch.compiler.is_compiling():
        # not a decorator: `disable` imports the compiler, 4 s that only a compiled program should pay
        return torch.compiler.disable(_pair_stats)(blocks, requests, group, tile_size, kept_bytes, backend)
    return _pair_stats(blocks, requests, group, tile_size, kept_bytes, backend)


def _pair_stats(
    blocks: Mapping[str, Block],
    requests: Mapping[str, Sequence[Request]],
    group: dist.Group,
    tile_size: int,
    kept_bytes: int,
    backend: Backend,
) -> Stats:
    stats: Stats = {}
    for name, wanted in requests.items():
        unique = tuple(dict.fromkeys(wanted))
        block = blocks[name]
        if block.symmetric:
            _check_symmetric(name, unique)
        with torch.autocast(block.rows.local.device.type, enabled=False):
            call = _Call(block, unique, group, tile_size, kept_bytes, is_chosen(backend, block, unique))
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
    is_fused: bool


_Recalled = tuple[Statistic, float | None, Vectors, Vectors]


class _PairStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: _Call, rows: Tensor, columns: Tensor | None, scale: Tensor, bias: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.walker = _Walker(call, rows, columns, scale, bias)
        ctx.dtypes = (rows.dtype, rows.dtype if columns is None else columns.dtype, scale.dtype, bias.dtype)
        answers = ctx.walker.forward(keep=any(ctx.needs_input_grad))
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
        self.alone = dist.world_size(call.group) == 1
        self._rows = rows.detach().to(dtype)
        local = self._rows if columns is None else columns.detach().to(dtype)
        self._columns = local if self.alone else block.columns.everyone.to(dtype)
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
            triangular=self.symmetric and self.alone,
            stored=self.kept,
        )

    def forward(self, *, keep: bool) -> tuple[Tensor, ...]:
        """Return the answers in the order of the requests; keeps no hold on them, for they will own this walker."""
        whole = self.rectangle()
        size = len(whole.rows) * len(whole.columns) * whole.rows.element_size()
        self._walk(whole, self.bounds, keep and size <= self.call.kept_bytes)
        if None not in self.bounds and not self._all_trusted():
            self._walk(whole, [None] * len(self.bounds), False)
        answers: dict[Request, Tensor] = {}
        for statistic in self.statistics:
            for axis, result in statistic.results().items():
                local = result if axis == "row" else self._local_columns(result)
                answers[statistic.requests[axis]] = local.clone()
            for axis, memory in statistic.memory().items():
                self._memory[statistic.requests[axis]] = memory
        return tuple(answers[request] for request in self.call.requests)

    def _walk(self, whole: Rectangle, bounds: Sequence[float | None], keep: bool) -> None:
        for statistic, bound in zip(self.statistics, bounds, strict=True):
            statistic.begin(whole, bound)
        if self.call.is_fused:
            self._fused_walk(whole).forward()
        else:
            self._add_tiles(whole, keep)
        for statistic in self.statistics:
            statistic.combine(self.call.group)

    def _add_tiles(self, whole: Rectangle, keep: bool) -> None:
        last = len(self.statistics) - 1
        for tile in whole.tiles(self.call.tile_size, store=keep):
            for k, statistic in enumerate(self.statistics):
                statistic.add(tile, tile.take(self.ratios[k], keep=k != last))

    def _fused_walk(self, whole: Rectangle) -> FusedWalk:
        scales = torch.stack([self._scale_of(statistic) for statistic in self.statistics])
        return FusedWalk(whole, self.statistics, scales, self._bias, self._feature_dtype)

    def _all_trusted(self) -> bool:
        doubted = not all(statistic.trusted() for statistic in self.statistics)
        return not bool(dist.all_reduce_max(self.scale.new_tensor(float(doubted)), self.call.group))

    def _local_columns(self, values: Tensor) -> Tensor:
        start = self._rank * self._num_local_columns
        return values[start : start + self._num_local_columns]

    def backward(self, gradients: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
        """Return the gradients of rows, columns, scale and bias; None where not `wanted`."""
        recalled = self._recall(
            {r: g for r, g in zip(self.call.requests, gradients, strict=True) if is_differentiable(r)}
        )
        walk_back = self._fused_walk_back if self.call.is_fused else self._walk_back
        rows, columns, scale, bias = walk_back(recalled, wanted)
        return rows, None if columns is None else dist.reduce_scatter_rows(columns, self.call.group), scale, bias

    def _walk_back(self, recalled: Sequence[_Recalled], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
        for statistic, bound, memory, weights in recalled:
            statistic.load(memory, weights, bound, self.call.group)
        walk = _BackwardWalk(self, *wanted)
        return walk.rows, walk.columns, walk.scale, walk.bias

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


class _BackwardWalk:
    """Gradients of one rectangle, added up tile by tile."""

    def __init__(self, walker: _Walker, wants_rows: bool, wants_columns: bool, wants_scale: bool, wants_bias: bool):
        self._walker, self._whole = walker, walker.rectangle()
        used = [(s, ratio) for s, ratio in zip(walker.statistics, walker.ratios, strict=True) if s.differentiable]
        self._used = used
        self._num_learned = sum(statistic.learned for statistic, _ in used)
        self._scale_by_rows = wants_rows and self._num_learned == len(used)
        self._scale_by_tile = wants_scale and not self._scale_by_rows and self._num_learned > 0
        self._wants_bias = wants_bias and any(statistic.biased for statistic, _ in used)
        self._row_sums = torch.zeros_like(self._whole.rows) if wants_rows else None
        self._column_sums = torch.zeros_like(self._whole.columns) if wants_columns else None
        self._scale_sum, self._bias_sum = self._whole.rows.new_zeros(()), self._whole.rows.new_zeros(())
        for tile in self._whole.tiles(walker.call.tile_size):
            self._add(tile)
        self.columns = self._column_sums
        self.scale = self._finish_scale() if wants_scale else None
        self.bias = self._bias_sum if wants_bias else None
        self.rows = None if self._row_sums is None else self._row_sums.mul_(walker.base)

    def _share(self, tile: Tile) -> float:
        """Return how often the matrix holds each number of the symmetrised derivative: off the diagonal once."""
        return 0.5 if tile.is_symmetric and not tile.mirrored else 1.0

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
        (statistic, ratio), *others = self._used
        if not others and ratio is None and not self._scale_by_tile:
            logits = tile.take(None, keep=False)
            self._weigh(statistic, tile, logits)
            return logits
        derivative = tile.buffer("derivative").zero_()
        for k, (statistic, ratio) in enumerate(self._used):
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
