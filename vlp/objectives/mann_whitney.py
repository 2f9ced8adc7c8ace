"""Every positive above every negative of the whole batch: a smooth area under the ROC curve."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vlp.objectives.base import Term, terms
from vlp.pairs import HIST, Pairs, Stats

POINTS = 64  # grid points whose costs are computed at once, for all local positives


@terms.register("mann_whitney")
class MannWhitneyTerm(Term):
    """Rank each pair above all mismatched pairs of the batch, so that cosines of different queries are comparable.

    Sheikholeslami et al. 2025 (arXiv:2510.00137): where one threshold must serve all queries. Not invariant to a
    query's own offset, and slower to converge than softmax contrast. Costs are linear between the points of a grid
    over the cosines, with the gradient of that; the model's scale plays no part.

    Formula: mean_i mean_{k != l} softplus((cosine_kl - cosine_ii) / temperature)

    Args:
        temperature: The paper's is 0.01.
        resolution: Grid points per temperature; the value is exact to a share of 1 / (8 resolution^2), at 16 to 5e-4.

    Raises:
        ValueError: Either is not positive.
    """

    min_pairs = 2

    def __init__(self, *, temperature: float = 0.01, resolution: int = 16):
        super().__init__()
        if temperature <= 0 or resolution <= 0:
            raise ValueError(f"temperature {temperature} and resolution {resolution} must be positive")
        self.temperature = temperature
        self.negatives = HIST(max(1, round(2 * resolution / temperature)) + 1)
        self.requests = {"image_text": (self.negatives,)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        counts = stats["image_text", self.negatives]
        costs = _costs(grid_of(counts), pairs.positive_cosines, self.temperature)
        return counts @ costs / (pairs.num_pairs * pairs.num_combinations.clamp(min=1)).to(counts.dtype)


def grid_of(counts: Float[Tensor, " g"]) -> Float[Tensor, " g"]:
    """Return the cosines that a histogram counts."""
    return torch.linspace(-1, 1, len(counts), dtype=counts.dtype, device=counts.device)


def _costs(grid: Float[Tensor, " g"], positives: Float[Tensor, " n"], temperature: float) -> Float[Tensor, " g"]:
    """Return what a negative of each cosine costs, summed over local positives, in pieces that are not kept."""

    def piece(cosines: Tensor, below: Tensor) -> Tensor:
        return functional.softplus((cosines[:, None] - below) / temperature).sum(dim=1)

    return torch.cat(
        [
            checkpoint(piece, cosines, positives, use_reentrant=False, preserve_rng_state=False)
            for cosines in grid.split(POINTS)
        ]
    )


def auc(counts: Float[Tensor, " g"], positives: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return how often one of these positives exceeds a negative, exact up to the width of a bin; ties count half.

    Args:
        counts: Histogram of all negatives on a grid over [-1, 1], as `HIST` answers.
    """
    num_bins = len(counts)
    up_to = functional.pad(counts.double().cumsum(dim=0), (1, 0))  # a bin reaches half a step to both sides
    places = ((positives.double() + 1) / 2 * (num_bins - 1) + 0.5).clamp(0, num_bins)
    bins = places.long().clamp(0, num_bins - 1)
    below = torch.lerp(up_to[bins], up_to[bins + 1], places - bins)
    return (below / up_to[-1]).mean()
