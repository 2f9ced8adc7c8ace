"""Contrast with the whole data set's negatives, remembered per sample."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import terms
from vlp.objectives.shared.global_contrast import GlobalContrast
from vlp.pairs import LSE, Pairs, Stats


@terms.register("sogclr")
class GlobalContrastTerm(GlobalContrast):
    """Weigh each pair by how hard its negatives are in this batch, relative to a moving average over its past batches.

    Yuan et al. 2022, algorithm 1 (arXiv:2202.12387), and Wei et al. 2024 (arXiv:2407.01445). `gamma` alone is SogCLR;
    `gamma: 0.2` with `gamma_steps` is FastCLIP-v1, both with model.learn_scale=false; with `budget` too and a learned
    scale, FastCLIP-v3, whose rate for the scale is in vitb32_fastclip; individual temperatures are `isogclr`. The
    gradient is that of temperature * log of the mean over the data set; the value has no meaning of its own. Averages
    are kept as logarithms, one per sample and direction, keyed by sample id and saved in checkpoints. At a sample's
    first visit this is dcl times the temperature: it takes epochs to matter.

    Formula: mean_i [exp(log g_i - log u_i) (lse_{j != i} z_ij - z_ii)] / scale in both directions, no gradient through
    the brackets' first factor; log g_i = lse_{j != i} z_ij - z_ii - log of how many; u_i = (1 - gamma) u_i + gamma g_i

    Args:
        gamma: Weight of this batch in the average.
        gamma_steps: Let gamma fall from 1 to its value in so many steps, along half a cosine (FastCLIP: half of the
            training, to 0.2).
        budget: Learn one temperature at which the negatives' weights have this Kullback-Leibler divergence from
            uniform ones, in nats, below the log of the data set's size (FastCLIP-v3: 6.5 for CC3M, 8.5 for CC12M).
        epsilon: Added to the averages that weigh pairs (FastCLIP: 1e-14, for LAION 1e-6).

    Raises:
        ValueError: `gamma` outside (0, 1], or a negative `gamma_steps`, `budget` or `epsilon`.
    """

    needs = frozenset({"ids"})
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")
    requests = {"image_text": (rows, columns)}

    def __init__(self, *, gamma: float = 0.8, gamma_steps: int = 0, budget: float | None = None, epsilon: float = 0.0):
        super().__init__(gamma, gamma_steps, budget, epsilon)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        sums = torch.stack([stats["image_text", self.rows], stats["image_text", self.columns]], dim=1)
        return self.contrast(pairs, sums, pairs.positive_logits)
