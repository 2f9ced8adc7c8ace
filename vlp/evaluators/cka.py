"""Centred kernel alignment of two sets of features of the same samples, in memory that is linear in samples."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from vlp.evaluators.influence import Estimate

UNBIASED_BELOW = 1000
CONSTANT = 1e-20  # of the squares of features: what is left of their spread is rounding


def linear_cka(
    first: Float64[Tensor, "n d"], second: Float64[Tensor, "n e"], *, unbiased: bool | None = None
) -> Estimate:
    """Return how much two sets of features are alike, up to rotation and scale: 1 alike, 0 unrelated.

    Kornblith et al. 2019 (arXiv 1905.00414), section 3; with few samples their estimate is far too high for wide
    features, so that HSIC is Song et al.'s unbiased one (2012, equation 5) then, as Nguyen et al. 2021
    (arXiv 2010.15327) have it. That one may be slightly negative. Where samples do not differ it is 0.

    Args:
        first: Rows of the same samples in the same order; widths may differ.
        unbiased: Which estimate; the unbiased one below 1,000 samples when absent. It needs four, and five say how
            sure it is.
    """
    if unbiased is None:
        unbiased = len(first) < UNBIASED_BELOW
    centred = first - first.mean(0), second - second.mean(0)
    if any(_is_constant(*both) for both in zip(centred, (first, second), strict=True)):
        return Estimate(0.0, torch.zeros_like(first[:, 0]), -1, 1)
    return (_unbiased_cka if unbiased else _plain_cka)(*centred)


def _is_constant(centred: Tensor, rows: Tensor) -> bool:
    return bool(centred.square().sum() <= CONSTANT * rows.square().sum())


def _plain_cka(first: Float64[Tensor, "n d"], second: Float64[Tensor, "n e"]) -> Estimate:
    across, own, other = _hsic(first, second), _hsic(first, first), _hsic(second, second)
    value = across[0] / (own[0] * other[0]).sqrt()
    influences = across[1] / (own[0] * other[0]).sqrt() - value * (own[1] / own[0] + other[1] / other[0]) / 2
    return Estimate(float(value), influences, 0, 1)


def _hsic(first: Float64[Tensor, "n d"], second: Float64[Tensor, "n e"]) -> tuple[Tensor, Float64[Tensor, " n"]]:
    """Return the sum of squares of the cross-covariances of centred rows, and its derivative by their weights."""
    covariances = first.T @ second
    return covariances.square().sum(), 2 * ((first @ covariances) * second).sum(1)


def _unbiased_cka(first: Float64[Tensor, "n d"], second: Float64[Tensor, "n e"]) -> Estimate:
    """Return the ratio of unbiased estimates; the jackknife says how much it depends on each sample (Tukey 1958)."""
    across, own, other = (_unbiased_hsic(*pair) for pair in ((first, second), (first, first), (second, second)))
    norms = own * other
    values = torch.where(norms <= 0, 0.0, across / norms.clamp(min=1e-300).sqrt())
    left_out = values[1:]
    influences = (left_out.mean() - left_out) * ((len(first) - 1) / len(first)) ** 0.5
    return Estimate(float(values[0]), influences.nan_to_num(torch.inf), -1, 1)


def _unbiased_hsic(first: Float64[Tensor, "n d"], second: Float64[Tensor, "n e"]) -> Float64[Tensor, " n+1"]:
    """Return HSIC of all samples, then of all but each: without the diagonals of both Gram matrices, never formed."""
    size = len(first)
    own, other = first.square().sum(1), second.square().sum(1)
    sums, other_sums = first @ first.sum(0) - own, second @ second.sum(0) - other
    products = ((first @ (first.T @ second)) * second).sum(1) - own * other
    across = sums @ other_sums
    met = first @ (first.T @ other_sums) - own * other_sums + second @ (second.T @ sums) - other * sums
    left_out = (
        products.sum() - 2 * products,
        (sums.sum() - 2 * sums) * (other_sums.sum() - 2 * other_sums),
        across - sums * other_sums - met + products,
    )
    whole = _combine(products.sum(), sums.sum() * other_sums.sum(), across, size)
    without = _combine(*left_out, size - 1) if size > 4 else torch.full_like(own, torch.nan)
    return torch.cat([whole[None], without])


def _combine(trace: Tensor, sums: Tensor, across: Tensor, size: int) -> Tensor:
    return (trace + sums / ((size - 1) * (size - 2)) - 2 / (size - 2) * across) / (size * (size - 3))
