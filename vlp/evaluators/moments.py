"""Numbers of embeddings that need sums over rows alone: centroids, mean cosines, numbers of dimensions."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import normalize

from vlp.evaluators.influence import Estimate


def centroid_distance(first: Float64[Tensor, "n d"], second: Float64[Tensor, "n d"]) -> Estimate:
    """Distance of the means of rows of unit norm."""
    centroids = first.mean(0), second.mean(0)
    apart = centroids[0] - centroids[1]
    moved = (first - second - apart) @ normalize(apart, dim=0)
    return Estimate(float(apart.norm()), moved / len(first), 0, 2)


def centroid_cosine(first: Float64[Tensor, "n d"], second: Float64[Tensor, "n d"]) -> Estimate:
    """Cosine of the means of rows."""
    means = first.mean(0), second.mean(0)
    value = torch.cosine_similarity(*means, dim=0)
    one, other = (normalize(mean, dim=0) for mean in means)
    lengths = [mean.norm().clamp(min=1e-30) for mean in means]  # without a direction anything is possible
    turned = (first - means[0]) @ (other - value * one) / lengths[0]
    turned += (second - means[1]) @ (one - value * other) / lengths[1]
    return Estimate(float(value), turned / len(first), -1, 1)


def mean_cosine(rows: Float64[Tensor, "n d"]) -> Estimate:
    """Mean cosine of two different rows, without forming the matrix."""
    size, own, total = len(rows), rows.square().sum(1), rows.sum(0)
    value = float((total.square().sum() - rows.square().sum()) / (size * (size - 1)))
    means = (rows @ total - own) / (size - 1)
    return Estimate(value, 2 * (means - value) / size, -1, 1)


def mean_cosine_across(first: Float64[Tensor, "n d"], second: Float64[Tensor, "n d"]) -> Estimate:
    """Mean cosine of any row of the first and any of the second."""
    means = first.mean(0), second.mean(0)
    value = float(means[0] @ means[1])
    return Estimate(value, (first @ means[1] + second @ means[0] - 2 * value) / len(first), -1, 1)


def effective_rank(rows: Float64[Tensor, "n d"], *, epsilon: float = 0.0) -> Estimate:
    """Exp of the entropy of the normalised singular values (Roy and Vetterli 2007), between 1 and d.

    Scaling a row by the root of its weight w moves a singular value by half of (x.v)^2 / sigma per unit of w.

    Args:
        epsilon: What is added to each share; 1e-7 is RankMe (Garrido et al. 2023, arXiv 2210.02885, equation 2).
    """
    singular = torch.linalg.svdvals(rows)
    shares = singular / singular.sum() + epsilon
    value = float(torch.special.entr(shares).sum().exp())
    squares = (rows @ torch.linalg.eigh(rows.T @ rows).eigenvectors).square_()
    norms = squares.sum(0).sqrt()
    parts = norms / norms.sum()
    slopes = -(parts + epsilon).clamp(min=1e-300).log()  # of the entropy, but for a constant that cancels out
    slopes = (slopes - slopes @ parts) / norms.sum()
    moved = (squares / (2 * norms)).nan_to_num_(0.0) @ slopes
    return Estimate(value, value * moved, 1, min(rows.shape))


def participation_ratio(rows: Float64[Tensor, "n d"]) -> Estimate:
    """Squared sum of the covariance's eigenvalues over the sum of their squares, between 1 and d (Gao et al. 2017).

    0 where all rows are equal.
    """
    apart = rows - rows.mean(0)
    products = apart.T @ apart
    trace, squares = products.trace(), products.square().sum()
    if not squares > 0:
        return Estimate(0.0, torch.zeros_like(rows[:, 0]), 0)
    value = float(trace**2 / squares)
    own = apart.square().sum(1) / trace
    influences = 2 * value * (own - ((apart @ products) * apart).sum(1) / squares)
    return Estimate(value, influences, 1, min(rows.shape))
