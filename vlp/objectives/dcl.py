"""Decoupled contrast: the positive pair leaves the denominator."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.negative_sums import excess
from vlp.pairs import LSE, Pairs, Stats


@terms.register("dcl")
class DclTerm(Term):
    """Contrast each pair with its negatives only; the pull on the pair never fades.

    Yeh et al. 2021, equation 6 (arXiv:2110.06848), in both directions. Unbounded below.

    Formula: mean_i lse_{j != i} z_ij - z_ii in both directions

    Args:
        intra: Also contrast images with images and texts with texts, as the paper does between views.
    """

    min_pairs = 2
    fixed_scale_advised = True
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")

    def __init__(self, *, intra: bool = False):
        super().__init__()
        self.intra = intra
        within = {"image_image": (self.rows,), "text_text": (self.rows,)} if intra else {}
        self.requests = {"image_text": (self.rows, self.columns), **within}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        image_negatives = stats["image_text", self.rows]
        text_negatives = stats["image_text", self.columns]
        if self.intra:
            image_negatives = torch.logaddexp(image_negatives, stats["image_image", self.rows])
            text_negatives = torch.logaddexp(text_negatives, stats["text_text", self.rows])
        return pairs.mean(excess((image_negatives + text_negatives) / 2, pairs.positive_logits))
