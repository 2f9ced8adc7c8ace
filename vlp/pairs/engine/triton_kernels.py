"""Kernels for CUDA: a program forms the products of one tile and answers every statistic from them.

No number has two writers, and each is added up in one order: results repeat bit for bit.
"""

from __future__ import annotations

from typing import get_args

import triton
import triton.language as tl

from vlp.pairs.requests import Mask

# Triton reads annotations too, and knows no names but its own. Of a plan it takes numbers, and by their places: its 3.4
# says that fields of constants are none, its 3.6 loses the names of fields and takes no words out of a tuple.
IS_SOFTPLUS, MASK, ROW, COLUMN, LEARNED = map(tl.constexpr, range(5))  # of an `Entry`
NONE, PAIR, LABEL, TWIN = (tl.constexpr(get_args(Mask).index(mask)) for mask in ("none", "pair", "label", "twin"))


@triton.jit(do_not_specialize=["offset"])
def forward(
    rows: tl.tensor,
    columns: tl.tensor,
    row_labels: tl.tensor,
    column_labels: tl.tensor,
    row_ids: tl.tensor,
    column_ids: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    row_parts: tl.tensor,
    column_parts: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    depth: tl.tensor,
    offset: tl.tensor,
    plan: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Write what each tile adds to the sums of its rows and of its columns."""
    i = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    j = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    cosines = _cosines(rows, columns, i, j, height, width, depth, block_rows, block_columns, block_depth, precision)
    for k in tl.static_range(len(plan)):
        seen = _seen(
            i,
            j,
            height,
            width,
            offset,
            row_labels,
            column_labels,
            row_ids,
            column_ids,
            tl.constexpr(plan[k][MASK]),
        )
        logits = tl.where(seen, cosines * tl.load(scales + k), float("-inf"))
        to_rows = row_parts + (plan[k][ROW] * tl.num_programs(1) + tl.program_id(1)) * height + i
        to_columns = column_parts + (plan[k][COLUMN] * tl.num_programs(0) + tl.program_id(0)) * width + j
        if plan[k][IS_SOFTPLUS]:
            tl.store(to_rows, tl.sum(_softplus(logits + tl.load(bias)), 1), mask=i < height)
        else:
            if plan[k][ROW] >= 0:
                tl.store(to_rows, _log_sum_exp(logits, 1), mask=i < height)
            if plan[k][COLUMN] >= 0:
                tl.store(to_columns, _log_sum_exp(logits, 0), mask=j < width)


@triton.jit(do_not_specialize=["offset"])
def backward(
    rows: tl.tensor,
    columns: tl.tensor,
    row_labels: tl.tensor,
    column_labels: tl.tensor,
    row_ids: tl.tensor,
    column_ids: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    row_vectors: tl.tensor,
    column_vectors: tl.tensor,
    derivative: tl.tensor,
    parts: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    depth: tl.tensor,
    offset: tl.tensor,
    plan: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Write the derivative with respect to the cosines, and what each tile adds to those of scale and bias.

    Vectors are pairs of a log-sum-exp and of the gradient that arrived at it.
    """
    i = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    j = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    cosines = _cosines(rows, columns, i, j, height, width, depth, block_rows, block_columns, block_depth, precision)
    total = tl.zeros((block_rows, block_columns), tl.float32)
    learned = tl.zeros((block_rows, block_columns), tl.float32)
    biased = tl.zeros((block_rows, block_columns), tl.float32)
    for k in tl.static_range(len(plan)):
        scale = tl.load(scales + k)
        seen = _seen(
            i,
            j,
            height,
            width,
            offset,
            row_labels,
            column_labels,
            row_ids,
            column_ids,
            tl.constexpr(plan[k][MASK]),
        )
        logits = tl.where(seen, cosines * scale, float("-inf"))
        slope = tl.zeros((block_rows, block_columns), tl.float32)
        if plan[k][ROW] >= 0:
            level, weight = _vectors(row_vectors, tl.constexpr(plan[k][ROW]), i, height)
            slope += _share(logits, level[:, None], tl.constexpr(plan[k][IS_SOFTPLUS])) * weight[:, None]
        if plan[k][COLUMN] >= 0:
            level, weight = _vectors(column_vectors, tl.constexpr(plan[k][COLUMN]), j, width)
            slope += _share(logits, level[None, :], tl.constexpr(plan[k][IS_SOFTPLUS])) * weight[None, :]
        if plan[k][IS_SOFTPLUS]:
            slope *= tl.sigmoid(logits + tl.load(bias))
            biased += slope
        total += slope * scale
        if plan[k][LEARNED]:
            learned += slope * scale
    inside = (i < height)[:, None] & (j < width)[None, :]
    tl.store(derivative + i[:, None] * width + j[None, :], total, mask=inside)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(parts + program, tl.sum(learned * cosines))
    tl.store(parts + tl.num_programs(0) * tl.num_programs(1) + program, tl.sum(biased))


@triton.jit
def _cosines(
    rows: tl.tensor,
    columns: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    depth: tl.tensor,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_depth: tl.constexpr,
    precision: tl.constexpr,
) -> tl.tensor:
    """Return the products of a tile, added up in float32; 0 outside the matrix.

    Factors in float32 are split into parts that matrix units read (`tf32x3`), are cut to one of them (`tf32`), or are
    multiplied without matrix units (`ieee`).
    """
    total = tl.zeros((block_rows, block_columns), tl.float32)
    for start in range(0, depth, block_depth):
        k = start + tl.arange(0, block_depth)
        inside = (k < depth)[None, :]
        left = tl.load(rows + i[:, None] * depth + k[None, :], mask=(i < height)[:, None] & inside, other=0.0)
        right = tl.load(columns + j[:, None] * depth + k[None, :], mask=(j < width)[:, None] & inside, other=0.0)
        total = tl.dot(left, tl.trans(right), total, input_precision=precision)
    return total


@triton.jit
def _seen(
    i: tl.tensor,
    j: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    offset: tl.tensor,
    row_labels: tl.tensor,
    column_labels: tl.tensor,
    row_ids: tl.tensor,
    column_ids: tl.tensor,
    mask: tl.constexpr,
) -> tl.tensor:
    """Return which entries exist and are not masked; row `i` is the pair of column `i + offset`."""
    seen = (i < height)[:, None] & (j < width)[None, :]
    own = i[:, None] + offset == j[None, :]
    if mask == PAIR:
        seen = seen & ~own
    if mask == LABEL:
        seen = seen & _differ(row_labels, column_labels, i, j, height, width)
    if mask != NONE and row_ids is not None:
        differ = _differ(row_ids, column_ids, i, j, height, width)
        seen = seen & ((differ | own) if mask == TWIN else differ)
    return seen


@triton.jit
def _differ(
    row_names: tl.tensor,
    column_names: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
) -> tl.tensor:
    """Return where the names of both sides differ."""
    of_rows = tl.load(row_names + i, mask=i < height, other=0)
    of_columns = tl.load(column_names + j, mask=j < width, other=0)
    return of_rows[:, None] != of_columns[None, :]


@triton.jit
def _log_sum_exp(logits: tl.tensor, axis: tl.constexpr) -> tl.tensor:
    """Return the log-sum-exp along an axis; minus infinity where nothing is seen."""
    largest = tl.max(logits, axis)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    return shift + tl.log(tl.sum(tl.exp(logits - tl.expand_dims(shift, axis)), axis))


@triton.jit
def _softplus(logits: tl.tensor) -> tl.tensor:
    """Return log(1 + exp(x)), all its digits, of which the hardware's logarithm of numbers near 1 has few.

    log(1 + u) = 2 artanh(u / (2 + u)), whose series needs eight terms up to u = 1.
    """
    small = tl.exp(-tl.abs(logits))
    ratio = small / (2.0 + small)
    square = ratio * ratio
    series = 1 / 13 + square * (1 / 15)
    series = 1 / 9 + square * (1 / 11 + square * series)
    series = 1 / 5 + square * (1 / 7 + square * series)
    series = 1.0 + square * (1 / 3 + square * series)
    return tl.maximum(logits, 0.0) + 2.0 * ratio * series


@triton.jit
def _vectors(vectors: tl.tensor, slot: tl.constexpr, at: tl.tensor, size: tl.tensor) -> tuple:
    """Return a tile's part of a log-sum-exp and of its gradient."""
    start = vectors + 2 * slot * size + at
    return tl.load(start, mask=at < size, other=0.0), tl.load(start + size, mask=at < size, other=0.0)


@triton.jit
def _share(logits: tl.tensor, level: tl.tensor, is_softplus: tl.constexpr) -> tl.tensor:
    """Return each entry's share of a sum of exponentials; 1 for a plain sum."""
    if is_softplus:
        return tl.full(logits.shape, 1.0, tl.float32)
    return tl.exp(logits - level)
