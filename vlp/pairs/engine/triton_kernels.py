"""Kernels for CUDA: a program forms the products of one tile and answers every statistic from them.

No number has two writers, and each is added up in one order: results repeat bit for bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vlp.pairs.engine.triton_tiles import (
    KERNEL_SUM,
    SOFTMAX_MEAN,
    SOFTPLUS,
    log_weights_of,
    masked,
    products_of,
    scale_of,
    seen_of,
    slope_of,
    sums_of,
)

# Triton reads annotations too, and knows no names but its own. Of a plan it takes numbers, and by their places: its 3.4
# says that fields of constants are none, its 3.6 loses the names of fields and takes no words out of a tuple.
KIND, MASK, ROW, COLUMN, LEARNED, OWN_SCALE, FUNCTION, FIRST, LAST, IS_NEW = map(tl.constexpr, range(10))  # `PlanEntry`


@triton.jit(do_not_specialize=["offset"])
def forward(
    rows: tl.tensor,
    columns: tl.tensor,
    row_labels: tl.tensor,
    column_labels: tl.tensor,
    row_ids: tl.tensor,
    column_ids: tl.tensor,
    row_scales: tl.tensor,
    column_scales: tl.tensor,
    row_references: tl.tensor,
    column_references: tl.tensor,
    scales: tl.tensor,
    parameters: tl.tensor,
    bias: tl.tensor,
    row_parts: tl.tensor,
    column_parts: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    depth: tl.tensor,
    reference_depth: tl.tensor,
    offset: tl.tensor,
    plan: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Write what each tile adds to the sums of its rows and of its columns: one number each, or two."""
    i = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    j = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    cosines = products_of(rows, columns, i, j, height, width, depth, 0, depth, block_depth, precision)
    products = cosines
    for k in tl.static_range(len(plan)):
        if plan[k][IS_NEW]:
            products = products_of(
                row_references,
                column_references,
                i,
                j,
                height,
                width,
                reference_depth,
                tl.constexpr(plan[k][FIRST]),
                tl.constexpr(plan[k][LAST]),
                block_depth,
                precision,
            )
        seen = seen_of(
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
        scale = scale_of(scales + k, row_scales, column_scales, i, j, height, width, tl.constexpr(plan[k][OWN_SCALE]))
        weights = log_weights_of(products, parameters + k, tl.constexpr(plan[k][FUNCTION]))
        logits, weights = masked(cosines * scale, weights, seen, bias, tl.constexpr(plan[k][KIND]))
        if plan[k][ROW] >= 0:
            first, second = sums_of(logits, weights, 1, tl.constexpr(plan[k][KIND]))
            to_rows = row_parts + (plan[k][ROW] * tl.num_programs(1) + tl.program_id(1)) * height + i
            tl.store(to_rows, first, mask=i < height)
            if plan[k][KIND] >= SOFTMAX_MEAN:
                tl.store(to_rows + tl.num_programs(1) * height, second, mask=i < height)
        if plan[k][COLUMN] >= 0:
            first, second = sums_of(logits, weights, 0, tl.constexpr(plan[k][KIND]))
            to_columns = column_parts + (plan[k][COLUMN] * tl.num_programs(0) + tl.program_id(0)) * width + j
            tl.store(to_columns, first, mask=j < width)
            if plan[k][KIND] >= SOFTMAX_MEAN:
                tl.store(to_columns + tl.num_programs(0) * width, second, mask=j < width)


@triton.jit(do_not_specialize=["offset"])
def backward(
    rows: tl.tensor,
    columns: tl.tensor,
    row_labels: tl.tensor,
    column_labels: tl.tensor,
    row_ids: tl.tensor,
    column_ids: tl.tensor,
    row_scales: tl.tensor,
    column_scales: tl.tensor,
    row_references: tl.tensor,
    column_references: tl.tensor,
    scales: tl.tensor,
    parameters: tl.tensor,
    bias: tl.tensor,
    row_vectors: tl.tensor,
    column_vectors: tl.tensor,
    derivative: tl.tensor,
    parts: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    depth: tl.tensor,
    reference_depth: tl.tensor,
    offset: tl.tensor,
    plan: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Write the derivative with respect to the cosines, and what each tile adds to those of scale and bias.

    Vectors begin with the gradient that arrived at a sum; its level follows where there is one, and its mean.
    """
    i = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    j = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    cosines = products_of(rows, columns, i, j, height, width, depth, 0, depth, block_depth, precision)
    products = cosines
    total = tl.zeros((block_rows, block_columns), tl.float32)
    learned = tl.zeros((block_rows, block_columns), tl.float32)
    biased = tl.zeros((block_rows, block_columns), tl.float32)
    for k in tl.static_range(len(plan)):
        if plan[k][IS_NEW]:
            products = products_of(
                row_references,
                column_references,
                i,
                j,
                height,
                width,
                reference_depth,
                tl.constexpr(plan[k][FIRST]),
                tl.constexpr(plan[k][LAST]),
                block_depth,
                precision,
            )
        seen = seen_of(
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
        scale = scale_of(scales + k, row_scales, column_scales, i, j, height, width, tl.constexpr(plan[k][OWN_SCALE]))
        weights = log_weights_of(products, parameters + k, tl.constexpr(plan[k][FUNCTION]))
        logits, weights = masked(cosines * scale, weights, seen, bias, tl.constexpr(plan[k][KIND]))
        slope = tl.zeros((block_rows, block_columns), tl.float32)
        if plan[k][ROW] >= 0:
            slope += slope_of(
                logits, row_vectors, i, height, tl.constexpr(plan[k][ROW]), 1, tl.constexpr(plan[k][KIND])
            )
        if plan[k][COLUMN] >= 0:
            slope += slope_of(
                logits, column_vectors, j, width, tl.constexpr(plan[k][COLUMN]), 0, tl.constexpr(plan[k][KIND])
            )
        if plan[k][KIND] == SOFTPLUS:
            slope *= tl.sigmoid(logits)
            biased += slope
        if plan[k][KIND] == KERNEL_SUM:
            slope *= weights
        slope *= scale
        total += slope
        if plan[k][LEARNED]:
            learned += slope
    inside = (i < height)[:, None] & (j < width)[None, :]
    tl.store(derivative + i[:, None] * width + j[None, :], total, mask=inside)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(parts + program, tl.sum(learned * cosines))
    tl.store(parts + tl.num_programs(0) * tl.num_programs(1) + program, tl.sum(biased))
