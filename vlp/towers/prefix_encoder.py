"""An encoder whose embeddings are the first coordinates of another's (Matryoshka, Kusupati et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxtyping import Bool, Float32, Int64
from PIL.Image import Image
from torch import Tensor

from vlp.ground.coordinates import first_coordinates
from vlp.ground.types import Encoder, RecipeError
from vlp.towers.around_encoder import AroundEncoder


class PrefixEncoder(AroundEncoder):
    """Embed as another encoder does, and keep the first coordinates, made unit again.

    Args:
        width: How many coordinates.
    """

    not_asked = frozenset({"text_gates"})  # as wide as the other one's embeddings

    def __init__(self, encoder: Encoder, width: int):
        super().__init__(encoder)
        self.width = width

    def embed_images(self, images: Iterable[Image]) -> Float32[Tensor, "n d"]:
        """Embed images as the encoder does."""
        return self._cut(self.encoder.embed_images(images))

    def embed_texts(self, texts: Sequence[str]) -> Float32[Tensor, "n d"]:
        """Embed texts as the encoder does."""
        return self._cut(self.encoder.embed_texts(texts))

    def embed_pixels(self, pixels: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n d"]:
        """Embed pixels as the encoder does, where it does."""
        return self._cut(self.encoder.embed_pixels(pixels))

    def styled_pixels(
        self, pixels: Float32[Tensor, "n 3 h w"]
    ) -> tuple[Float32[Tensor, "n d"], list[Float32[Tensor, "n 2 w"]]]:
        """Embed pixels and tell their styles as the encoder does, where it does."""
        rows, styles = self.encoder.styled_pixels(pixels)
        return self._cut(rows), styles

    def embed_shifted(
        self, tokens: Int64[Tensor, "n l"], is_word: Bool[Tensor, "n l"], shift: Float32[Tensor, "n l w"]
    ) -> Float32[Tensor, "n d"]:
        """Embed texts with moved words as the encoder does, where it does."""
        return self._cut(self.encoder.embed_shifted(tokens, is_word, shift))

    def _cut(self, embeddings: Float32[Tensor, "n d"]) -> Float32[Tensor, "n w"]:
        if not 0 < self.width <= embeddings.shape[1]:
            raise RecipeError(f"@{self.width}: the model's embeddings have {embeddings.shape[1]} coordinates")
        return first_coordinates(embeddings, self.width)
