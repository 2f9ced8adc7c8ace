"""A head in which each text says which coordinates of the embedding space count."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vlp.objectives.projections.base import Projection, projections
from vlp.objectives.shared.heads import mapped
from vlp.objectives.shared.view_pairs import Modality
from vlp.pairs import Pairs, at_least_float32


@projections.register("text_gate")
class TextGateHead(Projection):
    """Compare an image and a text through a filter of all coordinates, each in (0, 1), that the text opens.

    The feature filter of Wu et al. 2024 (Hydra, arXiv:2410.18200), g = sigmoid(f((a + b) / 2)) with learned vectors a
    and b of two class labels and the cosine of g * x and g * y; here f reads the embedding of a text, and each text of
    a batch brings a filter of its own. A matrix of such cosines would need the norm of every image under every filter:
    what stands below is divided by the norm of the image as it is, 1, and of the text filtered on behalf of both. It is
    a cosine again, of the image and of g_j^2 * y_j, so that losses keep their memory, an index of images serves all
    filters, and a filter that is equal everywhere changes nothing, as at the start. Terms behind it rank the texts of
    an image each under its own filter. `vlp describe aspect_retrieval` searches under the filter of one text.

    Formula: c_ij = (g_j * x_i).(g_j * y_j) / |g_j^2 * y_j|; g_j = sigmoid(W gelu(V y_j + v) + w), at first W = w = 0

    Args:
        hidden_width: Of the layer between a text's embedding and its filter.

    Raises:
        ValueError: `hidden_width` is below 1.
    """

    def __init__(self, *, hidden_width: int = 512):
        super().__init__()
        if hidden_width < 1:
            raise ValueError(f"hidden_width {hidden_width} must be at least 1")
        self.hidden_width = hidden_width

    def create(self, image_width: int, text_width: int, /) -> int:
        if image_width != text_width:
            raise ValueError(f"a text filters what is as wide, not {image_width} and {text_width}: read embeddings")
        last = nn.Linear(self.hidden_width, text_width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.filter = nn.Sequential(nn.Linear(text_width, self.hidden_width), nn.GELU(), last)
        return text_width

    def forward(self, modality: Modality, rows: Float[Tensor, "n d"], pairs: Pairs) -> Float[Tensor, "n d"]:
        return rows if modality == "image" else rows * mapped(pairs, self.filter, rows).sigmoid().square()

    def at_rest(self, modality: Modality, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return rows if modality == "image" else rows * self.gates(rows).square()

    def gates(self, texts: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        found: Tensor = self.filter(texts)
        return at_least_float32(found).sigmoid()
