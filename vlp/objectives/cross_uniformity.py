"""Spread of images away from the texts of other pairs."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.gaussian import gaussian_request, log_mean_kernel
from vlp.pairs import Pairs, Stats


@terms.register("cross_uniformity")
class CrossUniformityTerm(Term):
    """Push images away from texts that are not theirs: the log of their mean Gaussian kernel.

    Fahim et al. 2024, the XUnif of L_CUAXU (arXiv:2405.18570).

    Formula: log mean_{i != j} exp(-sharpness |x_i - y_j|^2)

    Args:
        sharpness: The t of exp(-t * squared distance).

    Raises:
        ValueError: `sharpness` is not positive.
    """

    min_pairs = 2

    def __init__(self, *, sharpness: float = 2.0):
        super().__init__()
        self.sharpness = sharpness
        self.others = gaussian_request(sharpness)
        self.requests = {"image_text": (self.others,)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        return pairs.share(log_mean_kernel(pairs, stats["image_text", self.others], self.sharpness))
