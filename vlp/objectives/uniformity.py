"""Spread of one modality over the sphere."""

from __future__ import annotations

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import LSE, Pairs, Stats

BLOCKS = {"image": ("image_image",), "text": ("text_text",), "both": ("image_image", "text_text")}


@terms.register("uniformity")
class UniformityTerm(Term):
    """Push samples of one modality apart: the log of their mean Gaussian kernel.

    Wang and Isola 2020, section 4.1.2 (arXiv:2005.10242). 0 when collapsed, near -2 * sharpness when isotropic.

    Args:
        modality: `both` is the mean of image and text.
        sharpness: The t of exp(-t * squared distance).

    Raises:
        ValueError: `sharpness` is not positive.
    """

    min_pairs = 2

    def __init__(self, *, modality: Literal["image", "text", "both"] = "both", sharpness: float = 2.0):
        super().__init__()
        if sharpness <= 0:
            raise ValueError(f"sharpness {sharpness} must be positive")
        self.sharpness = sharpness
        self.others = LSE("row", fixed_scale=2 * sharpness, mask="pair")
        self.requests = {block: (self.others,) for block in BLOCKS[modality]}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        log_kernels = [pairs.log_total_exp(stats[block, self.others]) for block in self.requests]
        num_combinations = pairs.num_pairs * (pairs.num_pairs - 1)
        mean = sum(log_kernels[1:], log_kernels[0]) / len(log_kernels)
        return pairs.share(mean - math.log(num_combinations) - 2 * self.sharpness)
