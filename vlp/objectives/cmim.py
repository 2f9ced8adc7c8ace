"""Each embedding is told from the mean of the others of its modality."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.negative_sums import log_num_negatives
from vlp.pairs import LSE, Pairs, Stats


@terms.register("cmim")
class CMimTerm(Term):
    """Tell each image from an average other image, and each text from an average other text.

    The contrastive factor log p(k = 1 | x, z) of the contrastive mutual information machine (Livne 2025,
    arXiv:2509.21511), as `compute_cmim_loss` has it in code for a later paper of the same author (arXiv:2606.11508);
    equations of the first paper itself were not read. The positive is the embedding itself, without a second view, and
    negatives count by their mean, not their sum, so that the value hardly depends on the size of the batch. The paper
    adds a decoder and densities of latent variables: `captioning` is the nearest to the one, and a dual encoder has
    not the other. A companion of a contrast of images with texts, which alone brings the two together.

    Formula: mean_i log(1 + mean_{j != i} exp((x_i.x_j - 1) / temperature)), the mean of images and texts

    Args:
        temperature: Of the cosines within a modality; 0.1 in the code.

    Raises:
        ValueError: `temperature` is not positive.
    """

    min_pairs = 2
    discriminates = False

    def __init__(self, *, temperature: float = 0.1):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature {temperature} must be positive")
        self.temperature = temperature
        self.others = LSE("row", fixed_scale=1 / temperature, mask="pair")
        self.requests = {"image_image": (self.others,), "text_text": (self.others,)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        itself = log_num_negatives(pairs) + 1 / self.temperature
        missed = [
            torch.logaddexp(wrong - itself.to(wrong.dtype), wrong.new_zeros(()))
            for wrong in (stats[block, self.others] for block in self.requests)
        ]
        return pairs.mean((missed[0] + missed[1]) / 2)
