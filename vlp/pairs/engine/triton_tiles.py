"""What the kernels make of one tile: products, masks, log-weights, sums along its rows or columns, slopes."""

from __future__ import annotations

from typing import get_args

import triton
import triton.language as tl

from vlp.pairs.engine.fused_plan import FUNCTIONS, KINDS, OWN_SCALES
from vlp.pairs.engine.split_products import DROPPED
from vlp.pairs.requests import Mask

# Triton reads annotations too, and knows no names but its own.
LOG_SUM_EXP, SOFTPLUS, SOFTMAX_MEAN, KERNEL_SUM = (tl.constexpr(place) for place in range(len(KINDS)))
NONE, PAIR, LABEL, TWIN = (tl.constexpr(get_args(Mask).index(mask)) for mask in ("none", "pair", "label", "twin"))
OF_ROWS, OF_COLUMNS = (tl.constexpr(OWN_SCALES.index(axis)) for axis in ("row", "column"))
LEADING = tl.constexpr(-(1 << DROPPED))  # bits of a float32
NO_FUNCTION, TILT, NEARNESS, BELOW, FADE, AFFINITY, GIVEN = (tl.constexpr(place) for place in range(len(FUNCTIONS)))


@triton.jit
def add_products(
    total: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    depth: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    block_depth: tl.constexpr,
    precision: tl.constexpr,
) -> tl.tensor:
    """Add the products of a tile over some of the features to a total in float32; 0 outside the matrix.

    Factors in float32 are split into parts that matrix units read (`tf32x3`), are cut to one of them (`tf32`), or are
    multiplied without matrix units (`ieee`).
    """
    for start in range(first, last, block_depth):
        k = start + tl.arange(0, block_depth)
        inside = (k < last)[None, :]
        a = tl.load(left + i[:, None] * depth + k[None, :], mask=(i < height)[:, None] & inside, other=0.0)
        b = tl.load(right + j[:, None] * depth + k[None, :], mask=(j < width)[:, None] & inside, other=0.0)
        total = tl.dot(a, tl.trans(b), total, input_precision=precision)
    return total


@triton.jit
def norms_of(
    row_norms: tl.tensor,
    column_norms: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    place: tl.constexpr,
) -> tuple:
    """Return the inverse norms of a width, of the rows and of the columns of a tile, to be broadcast over it."""
    of_rows = tl.load(row_norms + place * height + i, mask=i < height, other=0.0)[:, None]
    of_columns = tl.load(column_norms + place * width + j, mask=j < width, other=0.0)[None, :]
    return of_rows, of_columns


@triton.jit
def scale_of(
    scale: tl.tensor,
    row_scales: tl.tensor,
    column_scales: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    own: tl.constexpr,
) -> tl.tensor:
    """Return what multiplies cosines, to be broadcast over a tile."""
    found = tl.load(scale)
    if own == OF_ROWS:
        found = found * tl.load(row_scales + i, mask=i < height, other=0.0)[:, None]
    elif own == OF_COLUMNS:
        found = found * tl.load(column_scales + j, mask=j < width, other=0.0)[None, :]
    return found


@triton.jit
def log_weights_of(products: tl.tensor, parameter: tl.tensor, function: tl.constexpr) -> tl.tensor:
    """Return the log-weights of entries from the products of their references, as `functions` has them; 0 of none."""
    tl.static_assert(function <= GIVEN)
    found = products
    if function == NO_FUNCTION:
        found = tl.zeros(products.shape, tl.float32)
    elif function == TILT:
        found = products * tl.load(parameter)
    elif function == NEARNESS:
        found = (products - 1.0) / tl.load(parameter)
    elif function == BELOW:
        found = tl.where(products < tl.load(parameter), 0.0, float("-inf"))
    elif function == FADE:
        found = tl.log(1.0 - tl.exp(tl.load(parameter) * tl.log(tl.minimum(tl.maximum(products, 0.0), 1.0))))
    elif function == AFFINITY:
        found = tl.log(tl.maximum((products + 1.0) / 2.0, 0.0))
    return found


@triton.jit
def masked(logits: tl.tensor, log_weights: tl.tensor, seen: tl.tensor, bias: tl.tensor, kind: tl.constexpr) -> tuple:
    """Return the logits as a statistic sees them, and the weights of a sum that has any."""
    weights = log_weights
    if kind == KERNEL_SUM:
        weights = tl.where(seen, tl.exp(log_weights), 0.0)
    else:
        if kind == SOFTPLUS:
            logits += tl.load(bias)
        elif kind == LOG_SUM_EXP:
            logits += log_weights
        logits = tl.where(seen, logits, float("-inf"))
    return logits, weights


@triton.jit
def seen_of(
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
def sums_of(logits: tl.tensor, weights: tl.tensor, axis: tl.constexpr, kind: tl.constexpr) -> tuple:
    """Return what a tile adds along an axis: a sum, or a level and a mean, or a weighted sum and the sum of weights."""
    if kind == SOFTPLUS:
        first = tl.sum(_softplus(logits), axis)
        second = first
    elif kind == KERNEL_SUM:
        first = tl.sum(logits * weights, axis)
        second = tl.sum(weights, axis)
    else:
        largest = tl.max(logits, axis)
        shift = tl.where(largest == float("-inf"), 0.0, largest)
        shares = tl.exp(logits - tl.expand_dims(shift, axis))
        total = tl.sum(shares, axis)
        first = shift + tl.log(total)  # minus infinity where nothing is seen
        second = first
        if kind == SOFTMAX_MEAN:
            weighted = tl.sum(tl.where(shares > 0, shares * logits, 0.0), axis)
            second = weighted / tl.where(total > 0, total, 1.0)
    return first, second


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
def slope_of(
    logits: tl.tensor,
    vectors: tl.tensor,
    at: tl.tensor,
    size: tl.tensor,
    place: tl.constexpr,
    axis: tl.constexpr,
    kind: tl.constexpr,
) -> tl.tensor:
    """Return the derivative of a loss with respect to the logits, or what those of plain sums are multiplied by."""
    found = _along(vectors, place, at, size, axis)
    if kind == LOG_SUM_EXP:
        found = found * tl.exp(logits - _along(vectors, place + 1, at, size, axis))
    elif kind == SOFTMAX_MEAN:
        share = found * tl.exp(logits - _along(vectors, place + 1, at, size, axis))
        gap = logits - _along(vectors, place + 2, at, size, axis) + 1.0
        found = tl.where(logits == float("-inf"), 0.0, share * gap)
    return found


@triton.jit
def _along(vectors: tl.tensor, place: tl.constexpr, at: tl.tensor, size: tl.tensor, axis: tl.constexpr) -> tl.tensor:
    """Return a tile's part of a vector, to be broadcast along an axis."""
    return tl.expand_dims(tl.load(vectors + place * size + at, mask=at < size, other=0.0), axis)


@triton.jit
def load_tile(panel: tl.tensor, at: tl.tensor, is_inside: tl.tensor, j: tl.tensor, width: tl.tensor) -> tl.tensor:
    """Return a tile of a panel, 0 outside."""
    inside = is_inside[:, None] & (j < width)[None, :]
    return tl.load(panel + at[:, None] * width + j[None, :], mask=inside, other=0.0)


@triton.jit
def store_tile(
    panel: tl.tensor, at: tl.tensor, is_inside: tl.tensor, j: tl.tensor, width: tl.tensor, values: tl.tensor
) -> None:
    """Write a tile of a panel.

    Where it lies is computed anew each time: kept in between, it would take registers from all else.
    """
    inside = is_inside[:, None] & (j < width)[None, :]
    tl.store(panel + at[:, None] * width + j[None, :], values, mask=inside)


@triton.jit
def store_parts(
    uppers: tl.tensor,
    rests: tl.tensor,
    at: tl.tensor,
    is_inside: tl.tensor,
    j: tl.tensor,
    width: tl.tensor,
    values: tl.tensor,
) -> None:
    """Write the leading bits of a tile and its rest, as `split_products` has them; where no rests are asked, all."""
    if rests is None:
        store_tile(uppers, at, is_inside, j, width, values)
    else:
        bits = values.to(tl.int32, bitcast=True) & LEADING
        upper = bits.to(tl.float32, bitcast=True)
        store_tile(uppers, at, is_inside, j, width, upper)
        store_tile(rests, at, is_inside, j, width, values - upper)
