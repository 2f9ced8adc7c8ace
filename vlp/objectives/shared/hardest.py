"""The hardest negatives of each anchor, selected without gradient."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.pairs import TOPK, Mask, Pairs, Stats

Both = tuple[TOPK, TOPK]


def check_fraction(fraction: float) -> None:
    """Refuse what is no share.

    Raises:
        ValueError: `fraction` outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction {fraction} must lie in (0, 1]")


def hardest_share(pairs: Pairs, fraction: float, mask: Mask = "pair") -> Both:
    """Return the requests, of rows and of columns, for a share of all negatives, at least one of them."""
    return hardest(max(1, round(fraction * (pairs.num_pairs - 1))), mask)


def within_share(pairs: Pairs, fraction: float, cosines: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Return the hardest cosines with minus infinity beyond each anchor's share, where twins leave it fewer negatives.

    Args:
        cosines: Falling, as `cosines_of` returns them for what `hardest_share` asked.
    """
    if not pairs.has_twins:
        return cosines
    counts = (fraction * pairs.num_negatives).round().clamp(min=1)
    ranks = torch.arange(cosines.shape[1], device=cosines.device)
    return cosines.masked_fill(ranks >= counts[:, None], -torch.inf)


def hardest(count: int, mask: Mask = "pair") -> Both:
    """Return the requests, of rows and of columns, for so many negatives."""
    return TOPK("row", count, mask), TOPK("column", count, mask)


def cosines_of(pairs: Pairs, stats: Stats, request: TOPK, *, detach_other: bool = False) -> Float[Tensor, "n k"]:
    """Return the cosines of each anchor with its hardest negatives, falling; minus infinity where there are no more.

    Args:
        detach_other: Give no gradient to the negatives.
    """
    anchor, other = ("image", "text") if request.axis == "row" else ("text", "image")
    return pairs.cosines_at(anchor, other, stats["image_text", request], detach_other=detach_other)
