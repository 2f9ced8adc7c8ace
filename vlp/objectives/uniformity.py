"""Spread of one modality over the sphere."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.gaussian import gaussian_request, log_mean_kernel
from vlp.pairs import Pairs, Stats

BLOCKS = {"image": ("image_image",), "text": ("text_text",), "both": ("image_image", "text_text")}


@terms.register("uniformity")
class UniformityTerm(Term):
    """Push samples of one modality apart: the log of their mean Gaussian kernel.

    Wang and Isola 2020, section 4.1.2 (arXiv:2005.10242). 0 when collapsed, near -2 * sharpness when isotropic.

    Formula: log mean_{i != j} exp(-sharpness |x_i - x_j|^2)

    Args:
        modality: `both` is the mean of image and text.
        sharpness: The t of exp(-t * squared distance).

    Raises:
        ValueError: `sharpness` is not positive.
    """

    min_pairs = 2
    discriminates = False

    def __init__(self, *, modality: Literal["image", "text", "both"] = "both", sharpness: float = 2.0):
        super().__init__()
        self.sharpness = sharpness
        self.others = gaussian_request(sharpness)
        self.requests = {block: (self.others,) for block in BLOCKS[modality]}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        kernels = [log_mean_kernel(pairs, stats[block, self.others], self.sharpness) for block in self.requests]
        return pairs.share(torch.stack(kernels).mean())
