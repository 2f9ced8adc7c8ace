"""Distance between the two halves of a pair."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import Pairs, Stats


@terms.register("alignment")
class AlignmentTerm(Term):
    """Bring the image and the text of each pair together.

    Wang and Isola 2020, section 4.1.1 (arXiv:2005.10242).

    Formula: mean_i |x_i - y_i|^power

    Args:
        power: Exponent of the Euclidean distance.

    Raises:
        ValueError: `power` below 1, where the pull at distance zero is infinite.
    """

    discriminates = False

    def __init__(self, *, power: float = 2.0):
        super().__init__()
        if power < 1:
            raise ValueError(f"power {power} must be at least 1")
        self.power = power

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        distance = torch.linalg.vector_norm(pairs.image - pairs.text, dim=1)
        return pairs.mean(distance**self.power)
