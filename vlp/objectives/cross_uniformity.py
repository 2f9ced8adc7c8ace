"""Spread of images away from the texts of other pairs."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import LSE, Pairs, Stats


@terms.register("cross_uniformity")
class CrossUniformityTerm(Term):
    """Push images away from texts that are not theirs: the log of their mean Gaussian kernel.

    Fahim et al. 2024, the XUnif of L_CUAXU (arXiv:2405.18570).

    Args:
        sharpness: The t of exp(-t * squared distance).

    Raises:
        ValueError: `sharpness` is not positive.
    """

    min_pairs = 2

    def __init__(self, *, sharpness: float = 2.0):
        super().__init__()
        if sharpness <= 0:
            raise ValueError(f"sharpness {sharpness} must be positive")
        self.sharpness = sharpness
        self.others = LSE("row", fixed_scale=2 * sharpness, mask="pair")
        self.requests = {"image_text": (self.others,)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        num_combinations = pairs.num_pairs * (pairs.num_pairs - 1)
        log_kernel = pairs.log_total_exp(stats["image_text", self.others])
        return pairs.share(log_kernel - math.log(num_combinations) - 2 * self.sharpness)
