"""One similarity matrix as the engine sees it: what this process walks of it, and what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.ground import dist
from vlp.pairs.engine.plan import plan_statistics
from vlp.pairs.engine.split_products import Numerics
from vlp.pairs.engine.statistic import Statistic
from vlp.pairs.engine.tiles import Rectangle, TileMemory
from vlp.pairs.requests import TOPK, Block, Request, Side

FEWEST_OWN = 1024
"""Columns of a process, from which on it walks them while those of others arrive; fewer make small tiles."""


@dataclass(frozen=True)
class Matrix:
    """One similarity matrix, and what is asked of it; the same going forward and back.

    Args:
        part: This process's rows, unscaled, against everyone's columns.
        own_columns: Which columns are of this process.
        scale: Of the model, without gradient; `bias` likewise.
        requests: What is asked, in the order of the answers.
        statistics: That answer it; those at the model's scale come first.
        cosine_bound: What no cosine exceeds in size; None where reading it would make an accelerator wait.
        feature_dtype: Of the features as they came.
        kept_bytes: How much of it may be kept for the way back.
        is_fused: Whether Triton walks it.
        numerics: How Triton multiplies float32.
    """

    part: Rectangle
    own_columns: slice
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""]
    requests: Sequence[Request]
    statistics: Sequence[Statistic]
    cosine_bound: float | None
    feature_dtype: torch.dtype
    group: dist.Group
    kept_bytes: int
    is_fused: bool
    numerics: Numerics

    def scale_of(self, statistic: Statistic) -> Float[Tensor, ""]:
        """Return what a statistic multiplies cosines by."""
        return self.scale * statistic.factor if statistic.learned else self.scale.new_full((), statistic.factor)

    @cached_property
    def bounds(self) -> list[float | None]:
        """What no logit of each statistic exceeds in size."""
        if self.cosine_bound is None:
            return [None] * len(self.statistics)
        return [self.cosine_bound * abs(float(self.scale_of(statistic))) for statistic in self.statistics]

    @cached_property
    def base(self) -> Float[Tensor, ""]:
        """The scale at which tiles are computed: that of the first statistic."""
        return self.scale_of(self.statistics[0])

    @cached_property
    def ratios(self) -> list[Float[Tensor, ""] | None]:
        """Of each statistic's scale to the base; None where they are equal."""
        first = self.statistics[0]
        return [
            None if (s.learned, s.factor) == (first.learned, first.factor) else self.scale_of(s) / self.base
            for s in self.statistics
        ]

    def scaled(self) -> Rectangle:
        """Return what this process walks, with rows at the base scale: fresh memory, which belongs to one walk."""
        return replace(self.part, rows=self.part.rows * self.base)

    @cached_property
    def differentiable(self) -> list[tuple[Statistic, Float[Tensor, ""] | None]]:
        """The statistics whose results carry gradients, with their ratios."""
        return [(s, ratio) for s, ratio in zip(self.statistics, self.ratios, strict=True) if s.differentiable]


def matrix_of(
    block: Block,
    requests: Sequence[Request],
    group: dist.Group,
    *,
    tile_size: int,
    kept_bytes: int,
    memory: TileMemory,
    is_fused: bool,
    numerics: Numerics,
) -> Matrix:
    """Return the matrix of a block, in float64 where its rows are and in float32 elsewhere; a collective."""
    dtype = torch.float64 if block.rows.local.dtype == torch.float64 else torch.float32
    is_alone = dist.world_size(group) == 1
    arriving = _start(block.columns, requests, dtype, group)
    if arriving is None:
        rows, columns = features_of(block.rows, block.columns, dtype, group)
    else:
        rows, columns = block.rows.local.detach().to(dtype), arriving.everyones
    rank, num_own_columns = dist.rank(group), len(block.columns.local)
    part = Rectangle(
        rows,
        columns,
        row_start=rank * len(rows),
        row_side=block.rows,
        column_side=block.columns,
        triangular=block.symmetric and (is_alone or not is_fused),
        tile_size=tile_size,
        memory=memory,
        arriving=arriving,
    )
    bias = block.bias.detach().to(dtype)
    return Matrix(
        part,
        own_columns=slice(rank * num_own_columns, (rank + 1) * num_own_columns),
        scale=block.scale.detach().to(dtype),
        bias=bias,
        requests=requests,
        statistics=plan_statistics(requests, bias),
        cosine_bound=None if is_fused else bound_of_cosines(block, dtype, group),
        feature_dtype=torch.promote_types(block.rows.local.dtype, block.columns.local.dtype),
        group=group,
        kept_bytes=kept_bytes,
        is_fused=is_fused,
        numerics=numerics,
    )


def features_of(rows: Side, columns: Side, dtype: torch.dtype, group: dist.Group) -> tuple[Tensor, Tensor]:
    """Return this process's rows and everyone's columns, without gradient; a collective."""
    own = rows.local.detach().to(dtype)
    if dist.world_size(group) > 1:
        return own, columns.everyone.detach().to(dtype)
    return own, own if columns is rows else columns.local.detach().to(dtype)


def _start(
    columns: Side, requests: Sequence[Request], dtype: torch.dtype, group: dist.Group
) -> dist.ArrivingRows | None:
    """Begin to gather columns that may be walked before all of them are there; a collective.

    Where the largest are asked for, tiles keep their order: among equal ones the first counts.
    """
    is_slow = dist.world_size(group) > 1 and len(columns.local) >= FEWEST_OWN and columns.local.dtype == dtype
    if columns.start is None or not is_slow or any(isinstance(request, TOPK) for request in requests):
        return None
    return columns.start()


def bound_of_cosines(block: Block, dtype: torch.dtype, group: dist.Group) -> float | None:
    """Return what no cosine exceeds in size, the same on every process; an accelerator is not waited for."""
    sides = [side.local.detach().to(dtype) for side in (block.rows, block.columns)]
    if sides[0].device.type != "cpu" or not len(sides[0]):
        return None
    norms = torch.stack([features.norm(dim=1).max() for features in sides])
    return 1.001 * float(dist.all_reduce_max(norms, group).prod())
