"""A head of several layers, with batch normalisation that remembers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vlp.objectives.projections.base import Projection, projections
from vlp.objectives.shared.heads import EPSILON, BatchNorm, Perceptron, moments
from vlp.objectives.shared.view_pairs import Modality
from vlp.pairs import Pairs

MOMENTUM = 0.1  # that of torch's batch norm


class RememberingNorm(BatchNorm):
    """Batch normalisation over the whole job's batch, with running averages for the time after training."""

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int):
        super().__init__(width)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, pairs: Pairs, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Normalise this process's rows, and remember the batch."""
        centred, mean, variance = moments(pairs, rows)
        unbiased = variance.detach() * (pairs.num_pairs / (pairs.num_pairs - 1))
        self.mean.lerp_(mean.detach().to(self.mean.dtype), MOMENTUM)
        self.variance.lerp_(unbiased.to(self.variance.dtype), MOMENTUM)
        return centred / (variance + EPSILON).sqrt() * self.stretch + self.shift

    def at_rest(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Normalise rows by what is remembered."""
        return functional.batch_norm(rows, self.mean, self.variance, self.stretch, self.shift, eps=EPSILON)


@projections.register("perceptron")
class PerceptronHead(Projection):
    """Put layers with batch normalisation and rectifiers between the towers and a loss.

    The local heads of Fini et al. 2023 (arXiv:2305.08675), which have three layers; Chen et al. 2020 (arXiv:2002.05709)
    throw such a head away after training. Statistics are those of the whole job's batch, of each view alone.

    Args:
        width: Of what the loss sees.
        hidden_width: Of the layers between.
        layers: Linear layers, the last one included.

    Raises:
        ValueError: A number is below 1, or fewer than two layers.
    """

    def __init__(self, *, width: int = 256, hidden_width: int = 4096, layers: int = 3):
        super().__init__()
        if min(width, hidden_width) < 1 or layers < 2:
            raise ValueError("width and hidden_width must be at least 1, layers at least 2: type linear has one")
        self.width, self.hidden_width, self.num_layers = width, hidden_width, layers

    def create(self, image_width: int, text_width: int, /) -> int:
        between = (self.hidden_width,) * (self.num_layers - 1)
        self.image, self.text = (
            Perceptron(width, *between, self.width, norm=RememberingNorm) for width in (image_width, text_width)
        )
        return self.width

    def forward(self, modality: Modality, rows: Float[Tensor, "n d"], pairs: Pairs) -> Float[Tensor, "n e"]:
        found: Tensor = self._side(modality)(pairs, rows)
        return found

    def at_rest(self, modality: Modality, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        side = self._side(modality)
        for layer, norm in zip(side.layers, side.norms, strict=False):
            assert isinstance(norm, RememberingNorm), "made so in create"
            rows = norm.at_rest(layer(rows)).relu()
        found: Tensor = side.layers[-1](rows)
        return found

    def _side(self, modality: Modality) -> Perceptron:
        return self.image if modality == "image" else self.text
