"""Sigmoid contrast: every image-text combination is a yes-or-no question of its own."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.pairs import MAP, SOFTPLUS, Pairs, Stats


@terms.register("siglip")
class SigLipTerm(Term):
    """Say yes to matching pairs and no to all others, normalised by the number of images.

    Zhai et al. 2023, equation 1 (arXiv:2303.15343). Uses the model's bias; the paper starts at scale 10, bias -10.

    Formula: mean_i softplus(-z_ii - bias) + sum_{j != i} softplus(z_ij + bias)
    """

    others = MAP(SOFTPLUS, mask="pair")
    requests = {"image_text": (others,)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        yes = functional.softplus(-(pairs.positive_logits + pairs.bias))
        return pairs.mean(yes + stats["image_text", self.others])
