"""Softmax contrast between matching and non-matching image-text pairs."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.smoothing import smoothing
from vlp.pairs import LSE, Mask, Pairs, Stats


@terms.register("clip")
class ClipTerm(Term):
    """Pick the right caption for each image, and the right image for each caption.

    Radford et al. 2021, figure 3 (arXiv:2103.00020). Written as softplus(log-sum-exp of the wrong logits - right
    logit), which is the same number and keeps all digits when the loss nears zero.

    Formula: mean_i lse_j z_ij - z_ii in both directions

    Args:
        text_share: Weight of text-to-image retrieval; 0.5 is the paper's symmetric loss.
        label_smoothing: Share of the target spread evenly over the batch (Jia et al. 2021, arXiv:2102.05918: 0.1).
        mask_duplicates: Equal captions in a batch are no negatives of each other's images.

    Raises:
        ValueError: Shares outside [0, 1], or smoothing over captions that a mask removes.
    """

    def __init__(self, *, text_share: float = 0.5, label_smoothing: float = 0.0, mask_duplicates: bool = False):
        super().__init__()
        if not 0 <= text_share <= 1 or not 0 <= label_smoothing <= 1:
            raise ValueError(f"text_share {text_share} and label_smoothing {label_smoothing} must lie in [0, 1]")
        if label_smoothing and mask_duplicates:
            raise ValueError("label_smoothing spreads over captions that mask_duplicates removes: set one of them")
        self.text_share = text_share
        self.label_smoothing = label_smoothing
        mask: Mask = "label" if mask_duplicates else "pair"
        self.rows, self.columns = LSE("row", mask=mask), LSE("column", mask=mask)
        self.requests = {"image_text": (self.rows, self.columns)}
        self.needs = frozenset({"caption_ids"} if mask_duplicates else ())

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        image_to_text = pairs.miss(stats["image_text", self.rows])
        text_to_image = pairs.miss(stats["image_text", self.columns])
        retrieval = (1 - self.text_share) * image_to_text + self.text_share * text_to_image
        if self.label_smoothing == 0:
            return pairs.mean(retrieval)
        return pairs.mean(retrieval) + self.label_smoothing * smoothing(pairs, text_share=self.text_share)
