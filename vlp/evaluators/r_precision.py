"""Precision among as many items as a query has positives: R-precision and mAP@R."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

SCORES_AT_ONCE = 2**23
BLOCK = 64


def precision_at_r(
    queries: Float32[Tensor, "q d"],
    items: Float32[Tensor, "m d"],
    positives: Int64[Tensor, "2 p"],
    num_missing: Int64[Tensor, " q"] | None = None,
) -> tuple[Float64[Tensor, " q"], Float64[Tensor, " q"]]:
    """Return R-precision and mAP@R of each query (Musgrave et al. 2020, arXiv 2003.08505, section 3.2).

    With R positives, R-precision is the share of these among the R best, and mAP@R the sum of the precisions at the
    places of those that are among them, over R. Of equal scores any order is as good as another: both are expectations
    over all orders (McSherry & Najork 2008, for mean precision). Memory is a few SCORES_AT_ONCE numbers.

    Args:
        positives: Query and item of each positive pair, sorted by query; every query has one, and none stands twice.
        num_missing: Positives of each query that are not among the items; they count in R.
    """
    listed = torch.bincount(positives[0].cpu(), minlength=len(queries))
    sizes = listed if num_missing is None else listed + num_missing
    places = torch.arange(len(positives[0])) - (listed.cumsum(0) - listed).repeat_interleave(listed)
    padded = torch.full((len(queries), min(int(sizes.max()), len(items))), -1, dtype=torch.int64)
    padded[positives[0].cpu(), places] = positives[1].cpu()
    chunk = max(1, SCORES_AT_ONCE // max(len(items), 8 * padded.shape[1]))
    parts = []
    buffer = queries.new_empty(min(chunk, len(queries)), len(items))
    for rows, wanted, size in zip(queries.split(chunk), padded.split(chunk), sizes.split(chunk), strict=True):
        scores = torch.mm(rows, items.T, out=buffer[: len(rows)])
        parts.append(_expected(scores, wanted.to(rows.device), size.to(rows.device)))
    precision, mean_precision = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return precision, mean_precision


def _expected(
    scores: Float32[Tensor, "q m"], wanted: Int64[Tensor, "q r"], size: Int64[Tensor, " q"]
) -> tuple[Float64[Tensor, " q"], Float64[Tensor, " q"]]:
    """Walk down the R best places; each holds any of the items that score the same."""
    longest = wanted.shape[1]
    falling = largest(scores, min(longest + 1, scores.shape[1]))
    more_equal = falling[:, -1] == falling[:, longest - 1]  # there may be more of these than the list has
    falling = falling[:, :longest]
    found = torch.where(wanted >= 0, scores.gather(1, wanted.clamp(min=0)), -torch.inf).sort(dim=1, descending=True)
    right = found.values
    ahead, end = _bounds(falling, falling)
    equal = (end - ahead).double()
    tied = torch.where(more_equal)[0]
    lowest = falling[tied, -1:]
    counts = (scores[tied] == lowest).sum(dim=1, keepdim=True).double()
    equal[tied] = torch.where(falling[tied] == lowest, counts, equal[tied])
    right_ahead, right_end = _bounds(right, falling)
    right_equal = (right_end - right_ahead).double()
    place = torch.arange(1, longest + 1, device=scores.device)
    inside = place <= size[:, None]
    chance = torch.where(inside, right_equal / equal, 0.0)
    # given that a place holds a positive, how many stand before it: those that score more, and some of the equal ones
    before = (place - ahead - 1) * (right_equal - 1) / (equal - 1).clamp(min=1)
    at_place = chance * (right_ahead + 1 + before) / place
    return chance.sum(dim=1) / size, at_place.sum(dim=1) / size


def largest(scores: Float32[Tensor, "q m"], k: int) -> Float32[Tensor, "q k"]:
    """Return the k largest of each row, falling: those of the k blocks of columns with the largest maxima.

    Several times faster than `topk` on wide rows, which copies each with its places.
    """
    if scores.shape[1] <= 4 * k * BLOCK:
        return scores.topk(k, dim=1).values
    whole = scores.shape[1] // BLOCK * BLOCK
    blocks = scores[:, :whole].unflatten(1, (-1, BLOCK))
    chosen = blocks.amax(dim=2).topk(k, dim=1).indices[:, :, None].expand(-1, -1, BLOCK)
    return torch.cat([blocks.gather(1, chosen).flatten(1), scores[:, whole:]], dim=1).topk(k, dim=1).values


def _bounds(
    falling: Float32[Tensor, "q r"], values: Float32[Tensor, "q s"]
) -> tuple[Int64[Tensor, "q s"], Int64[Tensor, "q s"]]:
    """Count the entries of a falling list that are more than a value, and those that are at least as much."""
    rising, wanted = (-falling).contiguous(), (-values).contiguous()
    return torch.searchsorted(rising, wanted), torch.searchsorted(rising, wanted, right=True)
