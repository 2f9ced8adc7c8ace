"""A head that is one matrix for each modality."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vlp.objectives.projections.base import Projection, projections
from vlp.objectives.shared.heads import mapped
from vlp.objectives.shared.view_pairs import Modality
from vlp.pairs import Pairs


@projections.register("linear")
class LinearHead(Projection):
    """Put a learned matrix between the towers and a loss.

    Args:
        width: Of what the loss sees.

    Raises:
        ValueError: `width` is below 1.
    """

    def __init__(self, *, width: int = 256):
        super().__init__()
        if width < 1:
            raise ValueError(f"width {width} must be at least 1")
        self.width = width

    def create(self, image_width: int, text_width: int, /) -> int:
        self.image, self.text = (nn.Linear(size, self.width, bias=False) for size in (image_width, text_width))
        return self.width

    def forward(self, modality: Modality, rows: Float[Tensor, "n d"], pairs: Pairs) -> Float[Tensor, "n e"]:
        return mapped(pairs, self._side(modality), rows)

    def at_rest(self, modality: Modality, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        found: Tensor = self._side(modality)(rows)
        return found

    def matrix(self, modality: Modality) -> Float[Tensor, "e d"] | None:
        return self._side(modality).weight.detach()

    def _side(self, modality: Modality) -> nn.Linear:
        return self.image if modality == "image" else self.text
