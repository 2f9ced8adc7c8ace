"""What label smoothing adds to softmax contrast, from sums of features alone."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.shared.negative_sums import sum_of_negatives
from vlp.pairs import Pairs


def smoothing(pairs: Pairs, *, text_share: float) -> Float[Tensor, ""]:
    """Return this process's share of the mean of positive logits minus the mean of all logits.

    Args:
        text_share: Weight of the texts' side, which counts beside twins: there not every anchor has as many negatives.
    """
    if pairs.has_twins:
        return _beside_twins(pairs, text_share)
    average = pairs.mean_image @ pairs.mean_text
    return pairs.mean(pairs.positive_logits) - pairs.share(pairs.scale * average)


def _beside_twins(pairs: Pairs, text_share: float) -> Float[Tensor, ""]:
    """Return the same where each anchor's mean is over itself and its negatives, of which not all have as many."""
    seen = (pairs.num_negatives + 1).to(pairs.image.dtype)
    of_images, of_texts = (
        (sum_of_negatives(pairs, *names) + pairs.positive_cosines) / seen
        for names in (("image", "text"), ("text", "image"))
    )
    averages = (1 - text_share) * of_images + text_share * of_texts
    return pairs.mean(pairs.positive_logits - pairs.scale * averages)
