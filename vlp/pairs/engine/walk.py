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

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlp.ground import dist
from vlp.pairs.engine.answers import answers_of, own_gradients, return_gradients, saved_of
from vlp.pairs.engine.fused import Backend, FusedWalk, share_out
from vlp.pairs.engine.gradients import WantedGradients
from vlp.pairs.engine.matrix import Matrix, matrix_of
from vlp.pairs.engine.nested import Level, Nest, NestedWalk, inverse_norms
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
    memory = memory or TileMemory()
    asked: list[Asked] = []
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
            asked.append(Asked(name, block, matrix))
    stats: Stats = {}
    for together in walked_together(asked):
        with torch.autocast(together[0].block.rows.local.device.type, enabled=False):
            answers = iter(_ask(together[0]) if len(together) == 1 else _ask_nested(together))
        stats.update({(each.name, request): next(answers) for each in together for request in each.matrix.requests})
    return stats


def _check_symmetric(name: str, requests: Sequence[Request]) -> None:
    if any(axis_of(request) == "column" for request in requests):
        raise ValueError(f"block '{name}' is symmetric: ask for its rows")
    if any(isinstance(request, LSE | WMEAN) and request.individual for request in requests):
        raise ValueError(f"block '{name}' is symmetric, individual scales would make it something else")


class Asked(NamedTuple):
    """A matrix, and the block about which it is asked."""

    name: str
    block: Block
    matrix: Matrix

    @property
    def width(self) -> int:
        """Coordinates of its embeddings."""
        return self.block.rows.local.shape[1]


def walked_together(asked: Sequence[Asked]) -> list[list[Asked]]:
    """Return questions by walk: one alone, or those about several widths of the same embeddings, narrow ones first.

    Where half of a matrix can be kept, each is alone: kept exponentials save more than shared products. Kernels keep
    nothing, and read each statistic's own scale, but labels, ids, scales and references of samples once for all widths.
    """
    walks: dict[Any, list[Asked]] = {}
    for question in asked:
        block, matrix = question.block, question.matrix
        first = matrix.statistics[0]
        inputs = (block.rows.origin.local, block.columns.origin.local, block.scale, block.bias)
        same = _of_samples(block) if matrix.is_fused else (first.learned, first.factor)  # one scale for all tiles
        key = (*map(id, inputs), block.symmetric, matrix.is_fused, same)
        is_taken = any(question.width == other.width for other in walks.get(key, ()))
        is_alone = is_taken or (not matrix.is_fused and matrix.part.num_bytes <= 2 * matrix.kept_bytes)
        walks.setdefault(id(question.matrix) if is_alone else key, []).append(question)
    return [sorted(together, key=lambda question: question.width) for together in walks.values()]


def _of_samples(block: Block) -> tuple[Any, ...]:
    """Return what tells apart blocks whose samples have other labels, ids, scales or references."""
    sides = (block.rows, block.columns)
    numbers = [id(values) for side in sides for values in (side.labels, side.ids, side.scales)]
    references = [(name, id(features)) for side in sides for name, features in side.references.items()]
    return (*numbers, *references)


def _ask(question: Asked) -> tuple[Tensor, ...]:
    block, matrix = question.block, question.matrix

    def start(wanted: WantedGradients, kept: Sequence[KeptTiles]) -> WalkPath:
        return choose_path(matrix, wanted, kept[0])

    columns = None if block.symmetric else block.columns.local
    answers: tuple[Tensor, ...] = _PairStats.apply(
        (matrix,), start, block.rows.local, columns, block.scale, block.bias, None, None
    )
    return answers


def _ask_nested(together: Sequence[Asked]) -> tuple[Tensor, ...]:
    """Ask about several widths in one walk, gradients to the embeddings that they are cut from."""
    block, matrices = together[-1].block, [question.matrix for question in together]
    rows, columns = block.rows.origin, block.columns.origin
    cut = [question.width for question in together if question.block.rows.cut is not None]
    nest = Nest(matrices, [question.width for question in together], rows, columns, cut)

    def start(wanted: WantedGradients, kept: Sequence[KeptTiles]) -> WalkPath:
        if matrices[-1].is_fused:
            return FusedWalk(nest.levels, nest.whole, wanted)
        return NestedWalk(nest, wanted, kept)

    sides = [rows] if block.symmetric else [rows, columns]
    local = [side.local[:, : together[-1].width] for side in sides]
    norms = [inverse_norms(features, cut) for features in local]
    answers: tuple[Tensor, ...] = _PairStats.apply(
        matrices,
        start,
        local[0],
        None if block.symmetric else local[1],
        block.scale,
        block.bias,
        norms[0],
        None if block.symmetric else norms[1],
    )
    return answers


Start = Callable[[WantedGradients, Sequence[KeptTiles]], WalkPath]
"""Returns a path over matrices whose statistics have begun, given what wants gradients and where tiles stay."""


class _PairStats(torch.autograd.Function):
    """The answers to all that is asked of matrices that are walked together, as a function of embeddings.

    What comes back to rows and columns has that of their inverse norms behind it, where those are inputs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        matrices: Sequence[Matrix],
        start: Start,
        rows: Tensor,
        columns: Tensor | None,
        scale: Tensor,
        bias: Tensor,
        row_norms: Tensor | None,  # noqa: ARG004 - what is walked has them
        column_norms: Tensor | None,  # noqa: ARG004
    ) -> tuple[Tensor, ...]:
        ctx.matrices = matrices
        ctx.width = rows.shape[1]
        ctx.dtypes = (rows.dtype, rows.dtype if columns is None else columns.dtype, scale.dtype, bias.dtype)
        ctx.path = walk_forward(matrices, WantedGradients(*ctx.needs_input_grad[2:6]), start)
        ctx.saved = [saved_of(matrix) for matrix in matrices]
        answers = [answer for matrix in matrices for answer in answers_of(matrix)]
        requests = [request for matrix in matrices for request in matrix.requests]
        ctx.mark_non_differentiable(
            *(answer for answer, request in zip(answers, requests, strict=True) if not is_differentiable(request))
        )
        return tuple(answers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        each = iter(gradients)
        returned = [
            back
            for matrix, saved in zip(ctx.matrices, ctx.saved, strict=True)
            for back in return_gradients(matrix, saved, [next(each) for _ in matrix.requests])
        ]
        found = own_gradients(ctx.matrices[-1], ctx.path.backward(returned))
        rows, columns, scale, bias = (
            gradient.to(dtype) if gradient is not None and is_wanted else None
            for gradient, dtype, is_wanted in zip(found, ctx.dtypes, ctx.needs_input_grad[2:6], strict=True)
        )
        (rows, of_rows), (columns, of_columns) = _parted(rows, ctx.width), _parted(columns, ctx.width)
        return None, None, rows, columns, scale, bias, of_rows, of_columns


def _parted(gradient: Tensor | None, width: int) -> tuple[Tensor | None, Tensor | None]:
    """Return what belongs to coordinates, and what stands behind them."""
    if gradient is None or gradient.shape[1] == width:
        return gradient, None
    return gradient[:, :width], gradient[:, width:]


def walk_forward(matrices: Sequence[Matrix], wanted: WantedGradients, start: Start) -> WalkPath:
    """Let the statistics of matrices add up all of them; return the path that leads back to the gradients.

    With a bound for all logits a walk is quicker, but may find that it lost digits; then it is repeated without one.
    """
    for matrix in matrices:
        for statistic, bound in zip(matrix.statistics, matrix.bounds, strict=True):
            statistic.begin_forward(matrix.part, bound)
    kept = [KeptTiles(matrix.kept_bytes if any(wanted) else 0, matrix.part.memory) for matrix in matrices]
    path = start(wanted, kept)
    _add_up(matrices, path)
    if matrices[0].cosine_bound is None or _all_exact(matrices):
        return path
    for tiles in kept:
        tiles.give_back()
    for matrix in matrices:
        for statistic in matrix.statistics:
            statistic.begin_forward(matrix.part, None)
    path = start(wanted, [KeptTiles(0, matrix.part.memory) for matrix in matrices])
    _add_up(matrices, path)
    return path


def choose_path(matrix: Matrix, wanted: WantedGradients, kept: KeptTiles) -> WalkPath:
    """Return the quickest path for a matrix whose statistics have begun."""
    if matrix.is_fused:
        return FusedWalk([Level(matrix, matrix.part.rows.shape[1], None, None)], matrix.part, wanted)
    if len(matrix.statistics) == 1 and wanted.rows:
        statistic = matrix.statistics[0]
        is_bounded = matrix.cosine_bound is not None
        if isinstance(statistic, PointwiseSum) and is_bounded and not matrix.part.is_symmetric:
            return EarlyGradients(matrix, matrix.scaled(), wanted, statistic)
        if isinstance(statistic, LogSumExp) and statistic.shift is not None:
            return KeptExponentials(matrix, wanted, statistic, kept)
    return TwoWalks(matrix, wanted, kept)


def _add_up(matrices: Sequence[Matrix], path: WalkPath) -> None:
    path.forward()
    for matrix in matrices:
        if matrix.part.arriving is not None:
            matrix.part.arriving.wait()  # who walked no tile of others finds all columns on the way back, too
        for statistic in matrix.statistics:
            statistic.merge_processes(matrix.group)


def _all_exact(matrices: Sequence[Matrix]) -> bool:
    """Whether no process doubts its sums; a collective."""
    doubted = not all(statistic.is_exact() for matrix in matrices for statistic in matrix.statistics)
    return not bool(dist.all_reduce_max(matrices[0].scale.new_tensor(float(doubted)), matrices[0].group))
