"""Decoupled contrast that pulls hardest where a pair is furthest apart."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.negative_sums import excess
from vlp.pairs import LSE, Pairs, Stats


@terms.register("dclw")
class WeightedDclTerm(Term):
    """Weigh the pull of each pair by 2 - batch size * softmax(positive cosines / sigma), without gradient.

    Yeh et al. 2021, section 3.2 (arXiv:2110.06848). Unbounded below.

    Formula: mean_i lse_{j != i} z_ij - w_i z_ii in both directions, w_i = 2 - B softmax_i(cosine_ii / sigma)

    Args:
        sigma: Small values weigh the best-aligned pairs down further.
        intra: Also contrast images with images and texts with texts, as the paper does between views.

    Raises:
        ValueError: `sigma` is not positive.
    """

    min_pairs = 2
    fixed_scale_advised = True
    gradient_is_slope = False
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")

    def __init__(self, *, sigma: float = 0.5, intra: bool = False):
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"sigma {sigma} must be positive")
        self.sigma = sigma
        self.intra = intra
        within = {"image_image": (self.rows,), "text_text": (self.rows,)} if intra else {}
        self.requests = {"image_text": (self.rows, self.columns), **within}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        closeness = pairs.positive_cosines.detach() / self.sigma
        weights = 2 - pairs.num_pairs * (closeness - pairs.log_total_exp(closeness)).exp()
        image_negatives = stats["image_text", self.rows]
        text_negatives = stats["image_text", self.columns]
        if self.intra:
            image_negatives = torch.logaddexp(image_negatives, stats["image_image", self.rows])
            text_negatives = torch.logaddexp(text_negatives, stats["text_text", self.rows])
        return pairs.mean(excess((image_negatives + text_negatives) / 2, weights * pairs.positive_logits))
