"""Sums over negatives where a sample may have none, as in a batch that holds nothing but its twins."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vlp.pairs import Pairs

NOTHING = -1e30  # a logit that adds nothing and, unlike minus infinity, has a gradient


def lacks(wrong: Tensor) -> Bool[Tensor, "*shape"]:
    """Return where there is no negative, given log-sum-exps of negatives."""
    return wrong == -torch.inf


def excess(wrong: Float[Tensor, " n"], right: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return log-sum-exps of negatives minus logits of positives; 0, without gradient, where there is no negative.

    For terms whose positive is outside of the sum: with nothing to tell a pair from, they have nothing to say.
    """
    empty = lacks(wrong)
    return (wrong.masked_fill(empty, 0) - right).masked_fill(empty, 0)


def finite(logs: Tensor) -> Tensor:
    """Return log-sum-exps with a number in place of minus infinity, for what would make NaN of its gradient."""
    return logs.masked_fill(lacks(logs), NOTHING)


def log_num_negatives(pairs: Pairs) -> Float64[Tensor, " n"]:
    """Return the log of how many negatives each local sample has; 0 where it has none."""
    return pairs.num_negatives.clamp(min=1).log()


def sum_of_negatives(pairs: Pairs, anchor: str, other: str) -> Float[Tensor, " n"]:
    """Return the sum of each local anchor's cosines with the other halves of different samples, from sums of features.

    Args:
        anchor: `image` or `text`; `other` likewise.
    """
    mean = pairs.mean_text if other == "text" else pairs.mean_image
    everything = pairs.num_pairs * (pairs.view(anchor) @ mean)
    if not pairs.has_twins:
        return everything - pairs.positive_cosines
    return everything - (pairs.view(anchor) * pairs.sum_of_copies(pairs.view(other))).sum(dim=1)
