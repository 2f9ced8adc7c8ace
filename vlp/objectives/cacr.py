"""Attraction of the furthest positives, repulsion of the nearest negatives."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.negative_sums import finite, sum_of_negatives
from vlp.objectives.shared.view_pairs import Modality, positive_cosines
from vlp.pairs import LSE, WMEAN, Axis, Pairs, Request, Stats

SIDES: tuple[tuple[Axis, Modality], ...] = (("row", "image"), ("column", "text"))


@terms.register("cacr")
class CacrTerm(Term):
    """Pull the views of the other half that are furthest away, push the negatives that are nearest.

    Zheng et al. 2021 (arXiv:2105.03746), in both directions. With one view and detached weights the gradient is that of
    dcl at scale 2 * negative_sharpness, divided by negative_sharpness: the paper's 0.9 to 2 is soft for pairs of images
    and texts, try 5 to 25. The model's scale plays no part.

    Formula: mean_i sum_k p_ik D(x_i, y_ik) - sum_{j != i} q_ij D(x_i, y_j) in both directions, D squared distance,
    p_i = softmax_k positive_sharpness D(x_i, y_ik), q_i = softmax_{j != i} -negative_sharpness D(x_i, y_j)

    Args:
        positive_sharpness: The t+ of the paper; without further views it has no effect.
        negative_sharpness: The t- of the paper; 0 pushes all negatives alike.
        detach_weights: No gradient through p and q, as in the authors' large-scale code.
        prior: Share of false negatives to correct for (0.1 in the authors' code, there with the opposite sign).

    Raises:
        ValueError: A negative sharpness, or a `prior` outside [0, 1).
    """

    min_pairs = 2
    reads_views = True

    def __init__(
        self,
        *,
        positive_sharpness: float = 1.0,
        negative_sharpness: float = 2.0,
        detach_weights: bool = True,
        prior: float = 0.0,
    ):
        super().__init__()
        if positive_sharpness < 0 or negative_sharpness < 0 or not 0 <= prior < 1:
            raise ValueError(
                f"positive_sharpness {positive_sharpness} and negative_sharpness {negative_sharpness} must not be "
                f"negative, prior {prior} must lie in [0, 1)"
            )
        self.positive_sharpness = positive_sharpness
        self.negative_sharpness = negative_sharpness
        self.detach_weights = detach_weights
        self.prior = prior
        self.gradient_is_slope = not detach_weights
        scale = 2 * negative_sharpness
        self.means = {axis: WMEAN(axis, fixed_scale=scale, mask="pair") for axis, _ in SIDES}
        self.sums = {axis: LSE(axis, fixed_scale=scale, mask="pair") for axis, _ in SIDES}
        wanted: tuple[Request, ...] = (*self.means.values(), *(self.sums.values() if detach_weights else ()))
        self.requests = {"image_text": wanted} if negative_sharpness else {}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        rows, columns = (self._cost(pairs, stats, axis, anchor) for axis, anchor in SIDES)
        return pairs.mean((rows + columns) / 2)

    def _cost(self, pairs: Pairs, stats: Stats, axis: Axis, anchor: Modality) -> Float[Tensor, " n"]:
        distances = 2 - 2 * positive_cosines(pairs, anchor)
        weights = (self.positive_sharpness * distances).softmax(dim=1)
        attraction = ((weights.detach() if self.detach_weights else weights) * distances).sum(dim=1)
        near = self._near(stats, axis) if self.negative_sharpness else _mean_negative(pairs, anchor)
        repulsion = 2 * near - 2
        corrected = (repulsion + self.prior * distances.mean(dim=1)) / (1 - self.prior)
        return attraction + corrected.masked_fill(pairs.num_negatives == 0, 0)

    def _near(self, stats: Stats, axis: Axis) -> Float[Tensor, " n"]:
        """Return the mean cosine of each anchor's negatives, near ones first."""
        scale = 2 * self.negative_sharpness
        mean = stats["image_text", self.means[axis]] / scale
        if not self.detach_weights:
            return mean
        slope = finite(stats["image_text", self.sums[axis]]) / scale
        return mean.detach() + (slope - slope.detach())


def _mean_negative(pairs: Pairs, anchor: Modality) -> Float[Tensor, " n"]:
    """Return the mean cosine of each anchor with the other halves of all other pairs, from sums of features."""
    total = sum_of_negatives(pairs, anchor, "text" if anchor == "image" else "image")
    return total / pairs.num_negatives.clamp(min=1).to(total.dtype)
