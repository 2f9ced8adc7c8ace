"""Kernels for CUDA: a program forms the products of one tile and answers every statistic from them.

Several widths of the same embeddings are levels of one plan. There is one accumulator: behind the last feature of a
width it holds the products of that width, which are read before those of further features are added.

No number has two writers, and each is added up in one order: results repeat bit for bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vlp.pairs.engine.triton_tiles import (
    KERNEL_SUM,
    SOFTMAX_MEAN,
    SOFTPLUS,
    add_products,
    load_tile,
    log_weights_of,
    masked,
    norms_of,
    scale_of,
    seen_of,
    slope_of,
    store_parts,
    store_tile,
    sums_of,
)

# Triton reads annotations too, and knows no names but its own. Of a plan it takes numbers, and by their places: its 3.4
# says that fields of constants are none, its 3.6 loses the names of fields and takes no words out of a tuple.
KIND, MASK, ROW, COLUMN, LEARNED, OWN_SCALE, FUNCTION, FIRST, LAST, IS_NEW = map(tl.constexpr, range(10))  # `PlanEntry`
START, STOP, NORMS, FIRST_ENTRY, LAST_ENTRY = map(tl.constexpr, range(5))  # `PlanLevel`


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
    row_norms: tl.tensor,
    column_norms: tl.tensor,
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
    levels: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Write what each tile adds to the sums of its rows and of its columns: one number each, or two."""
    i = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    j = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    total = tl.zeros((block_rows, block_columns), tl.float32)
    products = total
    for level in tl.static_range(len(levels)):
        stop = depth if level == len(levels) - 1 else levels[level][STOP]
        total = add_products(
            total,
            rows,
            columns,
            i,
            j,
            height,
            width,
            depth,
            tl.constexpr(levels[level][START]),
            stop,
            block_depth,
            precision,
        )
        cosines = total
        if levels[level][NORMS] >= 0:
            of_rows, of_columns = norms_of(
                row_norms, column_norms, i, j, height, width, tl.constexpr(levels[level][NORMS])
            )
            cosines = total * of_rows * of_columns
        for k in tl.static_range(tl.constexpr(levels[level][FIRST_ENTRY]), tl.constexpr(levels[level][LAST_ENTRY])):
            if plan[k][IS_NEW]:
                products = add_products(
                    tl.zeros((block_rows, block_columns), tl.float32),
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
            scale = scale_of(
                scales + k, row_scales, column_scales, i, j, height, width, tl.constexpr(plan[k][OWN_SCALE])
            )
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
    row_norms: tl.tensor,
    column_norms: tl.tensor,
    scales: tl.tensor,
    parameters: tl.tensor,
    bias: tl.tensor,
    row_vectors: tl.tensor,
    column_vectors: tl.tensor,
    derivatives: tl.tensor,
    rests: tl.tensor,
    row_shares: tl.tensor,
    column_shares: tl.tensor,
    parts: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    depth: tl.tensor,
    reference_depth: tl.tensor,
    offset: tl.tensor,
    plan: tl.constexpr,
    levels: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Write the derivatives with respect to the products, and what each tile adds to those of scale and bias.

    Vectors begin with the gradient that arrived at a sum; its level follows where there is one, and its mean. What
    moves the products of a width moves those of all narrower ones: what a level of the plan leaves is the sum of its
    own derivative and of those behind it, in two parts where there is memory for the rests. To the logarithm of an
    inverse norm a tile adds the cosines times what moves them.
    """
    i = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    j = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    total = tl.zeros((block_rows, block_columns), tl.float32)
    products = total
    moved = total
    of_scale = 0.0
    of_bias = 0.0
    for level in tl.static_range(len(levels)):
        stop = depth if level == len(levels) - 1 else levels[level][STOP]
        total = add_products(
            total,
            rows,
            columns,
            i,
            j,
            height,
            width,
            depth,
            tl.constexpr(levels[level][START]),
            stop,
            block_depth,
            precision,
        )
        cosines = total
        if levels[level][NORMS] >= 0:
            of_rows, of_columns = norms_of(
                row_norms, column_norms, i, j, height, width, tl.constexpr(levels[level][NORMS])
            )
            cosines = total * of_rows * of_columns
        moved = tl.zeros((block_rows, block_columns), tl.float32)
        learned = tl.zeros((block_rows, block_columns), tl.float32)
        biased = tl.zeros((block_rows, block_columns), tl.float32)
        for k in tl.static_range(tl.constexpr(levels[level][FIRST_ENTRY]), tl.constexpr(levels[level][LAST_ENTRY])):
            if plan[k][IS_NEW]:
                products = add_products(
                    tl.zeros((block_rows, block_columns), tl.float32),
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
            scale = scale_of(
                scales + k, row_scales, column_scales, i, j, height, width, tl.constexpr(plan[k][OWN_SCALE])
            )
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
            moved += slope
            if plan[k][LEARNED]:
                learned += slope
        if levels[level][NORMS] >= 0:
            shares = moved * cosines
            to_rows = row_shares + (levels[level][NORMS] * tl.num_programs(1) + tl.program_id(1)) * height + i
            tl.store(to_rows, tl.sum(shares, 1), mask=i < height)
            to_columns = column_shares + (levels[level][NORMS] * tl.num_programs(0) + tl.program_id(0)) * width + j
            tl.store(to_columns, tl.sum(shares, 0), mask=j < width)
            moved = moved * of_rows * of_columns
        if level < len(levels) - 1:
            store_tile(derivatives, i + level * height, i < height, j, width, moved)
        else:
            store_parts(derivatives, rests, i + level * height, i < height, j, width, moved)
        of_scale += tl.sum(learned * cosines)
        of_bias += tl.sum(biased)
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(parts + program, of_scale)
    tl.store(parts + tl.num_programs(0) * tl.num_programs(1) + program, of_bias)
    for back in tl.static_range(1, len(levels)):
        at = i + (len(levels) - 1 - back) * height
        tl.debug_barrier()  # a thread may read what others wrote
        moved += load_tile(derivatives, at, i < height, j, width)
        tl.debug_barrier()  # and write where others read
        store_parts(derivatives, rests, at, i < height, j, width, moved)
