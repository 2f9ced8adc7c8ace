"""Softmax contrast in which references decide how much a negative counts."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import LSE, Kernel, Pairs, Stats, below, fade, tilt

Weighting = Literal["threshold", "fade", "disagreement"]
DEFAULTS: dict[Weighting, float] = {"threshold": 0.9, "fade": 2.0, "disagreement": 1.0}


@terms.register("false_negatives")
class FalseNegativesTerm(Term):
    """Let negatives that a reference model finds alike count less, and equal captions not at all.

    Adapted from Yu et al. 2022 (arXiv:2212.13847) for masks and weights, and from Keramati et al. 2023
    (arXiv:2309.06651) for disagreement. For data with many near-duplicates, which plain contrast pushes apart. The
    reference must be better than the model: a young EMA teacher finds everything alike, and then hides everything.

    Formula: mean_i log(exp(z_ii) + sum_j w_ij exp(z_ij)) - z_ii in both directions, j over other captions than that of
    i; r_ij cosine of references; w = [r < strength] (threshold), 1 - max(0, r)^strength (fade), or
    exp(strength (1 - r)) (disagreement)

    Args:
        weighting: `threshold` removes what is alike, `fade` makes it count less, `disagreement` makes what is unlike
            count more.
        strength: The number in the formula; None takes 0.9, 2 or 1.

    Raises:
        ValueError: A `strength` outside (-1, 1] for threshold, not positive for fade, or negative for disagreement.
    """

    needs = frozenset({"caption_ids", "reference"})

    def __init__(self, *, weighting: Weighting = "threshold", strength: float | None = None):
        super().__init__()
        number = DEFAULTS[weighting] if strength is None else strength
        kernel = _kernel(weighting, number)
        self.offset = number if weighting == "disagreement" else 0.0
        self.rows, self.columns = LSE("row", mask="label", kernel=kernel), LSE("column", mask="label", kernel=kernel)
        self.requests = {"image_text": (self.rows, self.columns)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        wrong_texts, wrong_images = (stats["image_text", axis] + self.offset for axis in (self.rows, self.columns))
        return pairs.mean((pairs.miss(wrong_texts) + pairs.miss(wrong_images)) / 2)


def _kernel(weighting: Weighting, strength: float) -> Kernel:
    """Return the log-weight of a negative, up to a constant."""
    if weighting == "threshold":
        if not -1 < strength <= 1:
            raise ValueError(f"strength {strength} must lie in (-1, 1]: it is a cosine")
        return below(strength)
    if weighting == "fade":
        if strength <= 0:
            raise ValueError(f"strength {strength} must be positive: it is a power")
        return fade(strength)
    if strength < 0:
        raise ValueError(f"strength {strength} must not be negative")
    return tilt(-strength)
