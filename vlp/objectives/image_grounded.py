"""Each image against wrong captions made for it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import Pairs, Stats


@terms.register("image_grounded")
class ImageGroundedTerm(Term):
    """Tell each image's caption from the wrong captions made for that image.

    The image-grounded contrast of DeGLA, Hu et al. 2025 (arXiv:2504.16801), weight 0.1 there. For word order and
    attributes, which other pairs' captions do not teach; a companion of a contrastive term.

    Formula: mean_i log(exp(z_ii) + sum_m exp(scale x_i.y'_im)) - z_ii, y'_im the wrong captions of sample i
    """

    needs = frozenset({"negatives"})
    discriminates = False

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        negatives = pairs.embeddings.negatives
        assert negatives is not None, "the objective checks what terms need"
        wrong = pairs.scale * torch.einsum("nd,nmd->nm", pairs.image, negatives)
        return pairs.mean(pairs.miss(wrong.logsumexp(dim=1)))
