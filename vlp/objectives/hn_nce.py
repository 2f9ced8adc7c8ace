"""Softmax contrast in which hard negatives count more."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.negative_sums import finite, lacks, log_num_negatives
from vlp.pairs import LSE, Axis, Pairs, Stats

AXES: tuple[Axis, Axis] = ("row", "column")


@terms.register("hn_nce")
class HardNegativeTerm(Term):
    """Weigh each negative by the softmax of its own logit, and optionally subtract the false ones among them.

    Radenovic et al. 2023 (arXiv:2301.02280); Robinson et al. 2021 (arXiv:2010.04592) for weights and debiasing. The
    weights follow from two log-sum-exps, at `beta` and at `1 + beta` times the scale. `beta` multiplies the scaled
    logit: at scale 100, 0.25 is a factor 25 on the cosine.

    Formula: mean_i log(eta exp(z_ii) + N_i) - z_ii in both directions,
    log N_i = log(B - 1) + lse_{j != i} (1 + beta) z_ij - lse_{j != i} beta z_ij

    Args:
        beta: How much harder hard negatives count; 0 is plain softmax contrast.
        eta: Weight of the pair in the denominator; 0 decouples it.
        detach_weights: No gradient through the weights, so that gradients stay bounded; the released code of both
            papers lets it through.
        prior: Share of false negatives to subtract (0.1 in the released code of the second paper).

    Raises:
        ValueError: A negative `beta` or `eta`, or a `prior` outside [0, 1).
    """

    min_pairs = 2

    def __init__(self, *, beta: float = 0.25, eta: float = 1.0, detach_weights: bool = True, prior: float = 0.0):
        super().__init__()
        if beta < 0 or eta < 0 or not 0 <= prior < 1:
            raise ValueError(f"beta {beta} and eta {eta} must not be negative, prior {prior} must lie in [0, 1)")
        self.beta = beta
        self.log_eta = math.log(eta) if eta else -math.inf
        self.detach_weights = detach_weights
        self.prior = prior
        self.fixed_scale_advised = eta == 0
        self.gradient_is_slope = beta == 0 or not detach_weights
        self.hard = {axis: LSE(axis, factor=1 + beta, mask="pair") for axis in AXES}
        self.soft = {axis: LSE(axis, factor=beta, mask="pair") for axis in AXES} if beta else {}
        self.requests = {"image_text": (*self.hard.values(), *self.soft.values())}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        return sum((pairs.mean(self._miss(pairs, stats, axis)) for axis in AXES), start=pairs.scale.new_zeros(())) / 2

    def _miss(self, pairs: Pairs, stats: Stats, axis: Axis) -> Float[Tensor, " n"]:
        excess = self._debias(pairs, self._negatives(pairs, stats, axis)) - pairs.positive_logits
        empty = lacks(stats["image_text", self.hard[axis]])
        if self.log_eta == -math.inf:
            return excess.masked_fill(empty, 0)
        return torch.logaddexp(excess.masked_fill(empty, -math.inf), torch.full_like(excess, self.log_eta))

    def _negatives(self, pairs: Pairs, stats: Stats, axis: Axis) -> Float[Tensor, " n"]:
        """Return the log of the weighted sum of negatives."""
        hard = finite(stats["image_text", self.hard[axis]])
        if not self.beta:
            return hard
        negatives = log_num_negatives(pairs).to(hard.dtype) + hard - finite(stats["image_text", self.soft[axis]])
        if not self.detach_weights:
            return negatives
        slope = hard / (1 + self.beta)
        return negatives.detach() + (slope - slope.detach())

    def _debias(self, pairs: Pairs, negatives: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Subtract the expected false negatives; what is left is at least what all cosines of -1 would sum to."""
        if not self.prior:
            return negatives
        log_count = log_num_negatives(pairs)
        floor = log_count.to(negatives.dtype) - pairs.scale
        false = (math.log(self.prior) + log_count).to(negatives.dtype) + pairs.positive_logits - negatives
        remains = false < -1e-6
        share = torch.log(-torch.expm1(false.where(remains, -1))) - math.log1p(-self.prior)
        return torch.maximum(negatives + share, floor).where(remains, floor)
