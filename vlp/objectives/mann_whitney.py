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
    over the cosines, with the gradient of that; the model's scale plays no part. The paper mines five hard negatives
    for each query, which join the others: `vlp mine` finds them (data.captions.negatives.mined), or the training itself
    does (data.captions.negatives.mining), or a key of the sample has them (data.captions.negatives.key).

    Formula: mean_i mean_{s in N} softplus((s - cosine_ii) / temperature), N all cosine_kl, k != l, and, where `mined`,
    all x_k.y'_km with the wrong captions of sample k

    Args:
        temperature: The paper's is 0.01.
        resolution: Grid points per temperature; the value is exact to a share of 1 / (8 resolution^2), at 16 to 5e-4.
        mined: Count each image's cosines with its wrong captions among the negatives.

    Raises:
        ValueError: Either is not positive.
    """

    min_pairs = 2

    def __init__(self, *, temperature: float = 0.01, resolution: int = 16, mined: bool = False):
        super().__init__()
        if temperature <= 0 or resolution <= 0:
            raise ValueError(f"temperature {temperature} and resolution {resolution} must be positive")
        self.temperature = temperature
        self.mined = mined
        self.needs = frozenset({"negatives"} if mined else ())
        self.negatives = HIST(max(1, round(2 * resolution / temperature)) + 1)
        self.requests = {"image_text": (self.negatives,)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        counts = stats["image_text", self.negatives]
        costs = _costs(grid_of(counts), pairs.positive_cosines, self.temperature)
        total, number = counts @ costs, pairs.num_combinations
        if self.mined:
            cosines = self._mined(pairs)
            total, number = total + _read(costs, cosines).sum(), number + len(cosines)
        return total / (pairs.num_pairs * number.clamp(min=1)).to(counts.dtype)

    def _mined(self, pairs: Pairs) -> Float[Tensor, " m"]:
        """Return the cosines of every image of the whole batch with its own wrong captions, gradients to all."""
        negatives = pairs.embeddings.negatives
        assert negatives is not None, "the objective checks what terms need"
        own = torch.einsum("nd,nmd->nm", pairs.image, negatives.to(pairs.image.dtype))
        return pairs.gather_with_gradient(own).flatten()


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


def _read(costs: Float[Tensor, " g"], cosines: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Return costs between the points of their grid, which lies over [-1, 1]."""
    places = (cosines.clamp(-1, 1) + 1) / 2 * (len(costs) - 1)
    below = places.detach().long().clamp(max=len(costs) - 2)
    return torch.lerp(costs[below], costs[below + 1], places - below)


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
