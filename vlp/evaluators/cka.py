"""Centred kernel alignment of two sets of features of the same samples, in memory that is linear in samples."""

from __future__ import annotations

from jaxtyping import Float64
from torch import Tensor

UNBIASED_BELOW = 1000


def linear_cka(first: Float64[Tensor, "n d"], second: Float64[Tensor, "n e"], *, unbiased: bool | None = None) -> float:
    """Return how much two sets of features are alike, up to rotation and scale: 1 alike, 0 unrelated.

    Kornblith et al. 2019 (arXiv 1905.00414), section 3; with few samples their estimate is far too high for wide
    features, so that HSIC is Song et al.'s unbiased one (2012, equation 5) then, as Nguyen et al. 2021
    (arXiv 2010.15327) have it. That one may be slightly negative.

    Args:
        first: Rows of the same samples in the same order; widths may differ.
        unbiased: Which estimate; the unbiased one below 1,000 samples when absent. It needs four.
    """
    if unbiased is None:
        unbiased = len(first) < UNBIASED_BELOW
    alignment = _unbiased_hsic if unbiased else _hsic
    norms = alignment(first, first) * alignment(second, second)
    return alignment(first, second) / norms**0.5 if norms > 0 else float("nan")


def _hsic(first: Float64[Tensor, "n d"], second: Float64[Tensor, "n e"]) -> float:
    """Return the sum of squares of the cross-covariances."""
    return float(((first - first.mean(0)).T @ (second - second.mean(0))).square().sum())


def _unbiased_hsic(first: Float64[Tensor, "n d"], second: Float64[Tensor, "n e"]) -> float:
    """Return HSIC without the diagonals of both Gram matrices, which are never formed."""
    size = len(first)
    own, other = first.square().sum(1), second.square().sum(1)
    sums = first @ first.sum(0) - own, second @ second.sum(0) - other
    trace = (first.T @ second).square().sum() - own @ other
    means = sums[0].sum() * sums[1].sum() / ((size - 1) * (size - 2))
    return float((trace + means - 2 / (size - 2) * (sums[0] @ sums[1])) / (size * (size - 3)))
