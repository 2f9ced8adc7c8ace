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
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlp.ground import dist
from vlp.pairs.engine.answers import answers_of, own_gradients, return_gradients, saved_of
from vlp.pairs.engine.fused import Backend, FusedWalk, share_out
from vlp.pairs.engine.gradients import WantedGradients
from vlp.pairs.engine.matrix import Matrix, matrix_of
from vlp.pairs.engine.plain_sums import PointwiseSum
from vlp.pairs.engine.plan import axis_of, is_differentiable
from vlp.pairs.engine.softmax_sums import LogSumExp
from vlp.pairs.engine.split_products import Numerics
from vlp.pairs.engine.tile_paths import EarlyGradients, KeptExponentials, TwoWalks, WalkPath
from vlp.pairs.engine.tiles import TILE_SIZE, KeptTiles, TileMemory
from vlp.pairs.requests import LSE, WMEAN, Block, Request, Stats

KEPT_BYTES = 64 * 2**20  # a batch of 4096 on one process in float32; what is larger is computed twice in part
# Launches cost more there than a cache saves: a tile of 64 MB, of which a few exist, and as many kept as 1 GB holds.
ACCELERATED_TILE_SIZE, ACCELERATED_KEPT_BYTES = 4096, 2**30


def pair_stats(
    blocks: Mapping[str, Block],
    requests: Mapping[str, Sequence[Request]],
    group: dist.Group = None,
    *,
    tile_size: int | None = None,
    kept_bytes: int | None = None,
    memory: TileMemory | None = None,
    backend: Backend = "auto",
    numerics: Numerics = "exact",
) -> Stats:
    """Answer requests about similarity matrices, keyed by (block, request).

    Each answer has one number per local row or column, unless the request says otherwise. Float64 stays float64; all
    else is computed in float32.

    Args:
        requests: For each block what to compute; equal requests are computed once.
        tile_size: Rows and columns of a tile; by default what suits the device. Triton has sizes of its own.
        kept_bytes: So much of each matrix is kept, tile by tile, for the backward pass: three products, not four. By
            default what suits the device.
        memory: Of tiles, to be used again by the next call.
        backend: `auto` takes Triton on CUDA for all requests that have kernels, and tiles for the others.
        numerics: Of Triton: `exact` keeps the digits of float32 (`split_products`), `fast` rounds features to TF32.

    Raises:
        ValueError: A symmetric block is asked about its columns, which equal its rows, or for individual scales; or
            Triton is asked for what it cannot answer.
    """
    if torch.compiler.is_compiling():
        # not a decorator: `disable` imports the compiler, 4 s that only a compiled program should pay
        return torch.compiler.disable(_pair_stats)(
            blocks, requests, group, tile_size, kept_bytes, memory, backend, numerics
        )
    return _pair_stats(blocks, requests, group, tile_size, kept_bytes, memory, backend, numerics)


def _pair_stats(
    blocks: Mapping[str, Block],
    requests: Mapping[str, Sequence[Request]],
    group: dist.Group,
    tile_size: int | None,
    kept_bytes: int | None,
    memory: TileMemory | None,
    backend: Backend,
    numerics: Numerics,
) -> Stats:
    stats: Stats = {}
    memory = memory or TileMemory()
    for name, wanted in requests.items():
        unique = tuple(dict.fromkeys(wanted))
        block = blocks[name]
        if block.symmetric:
            _check_symmetric(name, unique)
        device = block.rows.local.device.type
        suits = (TILE_SIZE, KEPT_BYTES) if device == "cpu" else (ACCELERATED_TILE_SIZE, ACCELERATED_KEPT_BYTES)
        for is_fused, share in share_out(backend, block, unique).items():
            with torch.autocast(device, enabled=False):
                matrix = matrix_of(
                    block,
                    share,
                    group,
                    tile_size=suits[0] if tile_size is None else tile_size,
                    kept_bytes=suits[1] if kept_bytes is None else kept_bytes,
                    memory=memory,
                    is_fused=is_fused,
                    numerics=numerics,
                )
                columns = None if block.symmetric else block.columns.local
                answers = _PairStats.apply(matrix, block.rows.local, columns, block.scale, block.bias)
            stats.update({(name, request): answer for request, answer in zip(share, answers, strict=True)})
    return stats


def _check_symmetric(name: str, requests: Sequence[Request]) -> None:
    if any(axis_of(request) == "column" for request in requests):
        raise ValueError(f"block '{name}' is symmetric: ask for its rows")
    if any(isinstance(request, LSE | WMEAN) and request.individual for request in requests):
        raise ValueError(f"block '{name}' is symmetric, individual scales would make it something else")


class _PairStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, matrix: Matrix, rows: Tensor, columns: Tensor | None, scale: Tensor, bias: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.matrix = matrix
        ctx.dtypes = (rows.dtype, rows.dtype if columns is None else columns.dtype, scale.dtype, bias.dtype)
        ctx.path = walk_forward(matrix, WantedGradients(*ctx.needs_input_grad[1:]))
        ctx.saved = saved_of(matrix)
        answers = answers_of(matrix)
        ctx.mark_non_differentiable(
            *(a for a, request in zip(answers, matrix.requests, strict=True) if not is_differentiable(request))
        )
        return answers

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        returned = return_gradients(ctx.matrix, ctx.saved, gradients)
        found = own_gradients(ctx.matrix, ctx.path.backward(returned))
        typed = (
            gradient.to(dtype) if gradient is not None and is_wanted else None
            for gradient, dtype, is_wanted in zip(found, ctx.dtypes, ctx.needs_input_grad[1:], strict=True)
        )
        return None, *typed


def walk_forward(matrix: Matrix, wanted: WantedGradients) -> WalkPath:
    """Let the statistics of a matrix add up all of it; return the path that leads back to the gradients.

    With a bound for all logits a walk is quicker, but may find that it lost digits; then it is repeated without one.
    """
    for statistic, bound in zip(matrix.statistics, matrix.bounds, strict=True):
        statistic.begin_forward(matrix.part, bound)
    kept = KeptTiles(matrix.kept_bytes if any(wanted) else 0, matrix.part.memory)
    path = choose_path(matrix, wanted, kept)
    _add_up(matrix, path)
    if matrix.cosine_bound is None or _all_exact(matrix):
        return path
    kept.give_back()
    for statistic in matrix.statistics:
        statistic.begin_forward(matrix.part, None)
    path = TwoWalks(matrix, wanted, KeptTiles(0, matrix.part.memory))
    _add_up(matrix, path)
    return path


def choose_path(matrix: Matrix, wanted: WantedGradients, kept: KeptTiles) -> WalkPath:
    """Return the quickest path for a matrix whose statistics have begun."""
    if matrix.is_fused:
        return FusedWalk(matrix, wanted)
    if len(matrix.statistics) == 1 and wanted.rows:
        statistic = matrix.statistics[0]
        is_bounded = matrix.cosine_bound is not None
        if isinstance(statistic, PointwiseSum) and is_bounded and not matrix.part.is_symmetric:
            return EarlyGradients(matrix, matrix.scaled(), wanted, statistic)
        if isinstance(statistic, LogSumExp) and statistic.shift is not None:
            return KeptExponentials(matrix, wanted, statistic, kept)
    return TwoWalks(matrix, wanted, kept)


def _add_up(matrix: Matrix, path: WalkPath) -> None:
    path.forward()
    for statistic in matrix.statistics:
        statistic.merge_processes(matrix.group)


def _all_exact(matrix: Matrix) -> bool:
    """Whether no process doubts its sums; a collective."""
    doubted = not all(statistic.is_exact() for statistic in matrix.statistics)
    return not bool(dist.all_reduce_max(matrix.scale.new_tensor(float(doubted)), matrix.group))
