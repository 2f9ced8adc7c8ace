"""Alignment of pairs and spread of each modality, with hard negatives inside the modality only."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import LSE, Pairs, Stats


@terms.register("dhel")
class DhelTerm(Term):
    """Pull pairs together; push images from images and texts from texts, the closest hardest.

    Koromilas et al. 2024 (arXiv:2405.18045), and MV-DHEL of two views (arXiv:2507.06979), which leaves a sample out of
    its own negatives as the authors' code does. No image meets the text of another pair: add it to a term that
    contrasts across modalities. Unbounded below.

    Formula: mean_i lse_{j != i} scale x_i.x_j + lse_{j != i} scale y_i.y_j - scale x_i.y_i
    """

    min_pairs = 2
    discriminates = False
    fixed_scale_advised = True
    others = LSE("row", mask="pair")
    requests = {"image_image": (others,), "text_text": (others,)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        spread = stats["image_image", self.others] + stats["text_text", self.others]
        return pairs.mean(spread - pairs.positive_logits)
