"""The first coordinates of embeddings, which may stand for the whole (Matryoshka, Kusupati et al. 2022)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def first_coordinates(features: Float[Tensor, "... d"], width: int) -> Float[Tensor, "... w"]:
    """Return the first coordinates, made unit again."""
    return functional.normalize(features[..., :width], dim=-1)
