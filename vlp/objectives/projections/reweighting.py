"""A head without parameters that weighs coordinates."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.projections.base import Projection, projections
from vlp.objectives.shared.view_pairs import Modality
from vlp.pairs import Pairs


@projections.register("reweighting")
class ReweightingHead(Projection):
    """Divide each coordinate by `kappa` once more than the one before it: diag(1, 1/kappa, 1/kappa^2, ...).

    The fixed head of Xue et al. 2024 (arXiv:2403.11391), for embeddings that keep weak features: what the loss looks at
    little stays in the last coordinates. Nothing is learned; with `kappa: 1` it changes nothing.

    Args:
        kappa: At least 1. After c coordinates little is left where kappa^c is large: 1.01 leaves 0.6 % of the last
            of 512.

    Raises:
        ValueError: `kappa` is below 1.
    """

    weights: Tensor

    def __init__(self, *, kappa: float = 1.01):
        super().__init__()
        if kappa < 1:
            raise ValueError(f"kappa {kappa} must be at least 1")
        self.kappa = kappa

    def create(self, image_width: int, text_width: int, /) -> int:
        if image_width != text_width:
            raise ValueError(f"reweighting keeps widths, and these are {image_width} and {text_width}: read embeddings")
        places = torch.arange(image_width, dtype=torch.float64)
        self.register_buffer("weights", (self.kappa**-places).float(), persistent=False)
        return image_width

    def forward(self, modality: Modality, rows: Float[Tensor, "n d"], pairs: Pairs) -> Float[Tensor, "n e"]:  # noqa: ARG002
        return self.at_rest(modality, rows)

    def at_rest(self, modality: Modality, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:  # noqa: ARG002
        # a copy: buffers are put back in place between forward and backward, as all that a step may have changed
        return rows * self.weights.to(rows.dtype, copy=True)

    def matrix(self, modality: Modality) -> Float[Tensor, "e d"] | None:  # noqa: ARG002
        return self.weights.diag()
