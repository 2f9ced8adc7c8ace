"""Softmax contrast whose images also meet every wrong caption of the batch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import LSE, Pairs, Stats, pair_stats


@terms.register("clip_negatives")
class ClipNegativesTerm(Term):
    """Pick the right caption among all true and all wrong captions of the batch, and the right image for each caption.

    The global contrast of NegCLIP, Yuksekgonul et al. 2023 (arXiv:2210.01936), and of DeGLA, Hu et al. 2025
    (arXiv:2504.16801). In place of clip. Wrong captions are no anchors: no image belongs to them.

    Formula: mean_i log(sum_j exp(z_ij) + sum_jm exp(scale x_i.y'_jm)) - z_ii for images, lse_j z_ji - z_ii for texts;
    y'_jm the wrong captions of sample j
    """

    needs = frozenset({"negatives"})
    rows, columns, made = LSE("row", mask="pair"), LSE("column", mask="pair"), LSE("row")
    requests = {"image_text": (rows, columns)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        negatives = pairs.embeddings.negatives
        assert negatives is not None, "the objective checks what terms need"
        block = pairs.block_of(pairs.side("image"), pairs.side_of(negatives.flatten(0, 1)))
        made = pair_stats({"made": block}, {"made": (self.made,)}, pairs.group)["made", self.made]
        image_to_text = pairs.miss(torch.logaddexp(stats["image_text", self.rows], made))
        text_to_image = pairs.miss(stats["image_text", self.columns])
        return pairs.mean((image_to_text + text_to_image) / 2)
