"""Embeddings in two parts: one that image and text share, one of each modality's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.pairs import LSE, Pairs, Request, Stats, pair_stats


@terms.register("sepclr")
class CommonSalientTerm(Term):
    """Align the shared part of each pair; spread shared and private parts of a modality as if independent.

    Adapted from Louiset et al. 2024 (arXiv:2402.11928): kernel joint entropy without their terms on target labels. For
    data in which texts leave out much of the images. The private part is the last numbers of an embedding; a cosine of
    whole embeddings includes it, so beside clip a small weight is enough.

    Formula: mean_i |c_i - c'_i|^2 + entropy_weight * mean_i log mean_j exp(-sharpness (|c_i - c_j|^2 + |e_i - e_j|^2)),
    the second of images and of texts, averaged; c and c' the unit shared parts of image and text, e a unit private part

    Args:
        private_dim: Width of the private part; None takes a quarter of the embedding.
        entropy_weight: Of the joint entropy (10 in the paper).
        sharpness: The t of exp(-t * squared distance).

    Raises:
        ValueError: A width below 1, or that leaves nothing to share; a `sharpness` that is not positive; a negative
            weight.
    """

    discriminates = False

    def __init__(self, *, private_dim: int | None = None, entropy_weight: float = 10.0, sharpness: float = 1.0):
        super().__init__()
        if private_dim is not None and private_dim < 1:
            raise ValueError(f"private_dim {private_dim} must be at least 1")
        if sharpness <= 0 or entropy_weight < 0:
            raise ValueError(f"sharpness {sharpness} must be positive, entropy_weight must not be negative")
        self.private_dim, self.entropy_weight, self.sharpness = private_dim, entropy_weight, sharpness
        self.joint = LSE("row", fixed_scale=2 * sharpness, mask="twin")
        self.requests = {"image_image": (self.joint,), "text_text": (self.joint,)}

    def create(self, embed_dim: int, /) -> None:
        if self.private_dim is not None and self.private_dim >= embed_dim:
            raise ValueError(f"private_dim {self.private_dim} must be smaller than the embedding, {embed_dim}")

    def plan(self, _pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        """Ask for nothing: `forward` does, once it has made the parts."""
        return {}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        image, text = self._parts(pairs.image), self._parts(pairs.text)
        alignment = (image[0] - text[0]).square().sum(dim=1)
        entropy = (self._joint_entropy(pairs, *image) + self._joint_entropy(pairs, *text)) / 2
        return pairs.mean(alignment + self.entropy_weight * entropy)

    def _parts(self, embeddings: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
        """Return the shared and the private part, each of unit norm."""
        width = embeddings.shape[1]
        private = self.private_dim or max(1, width // 4)
        shared, own = embeddings.split([width - private, private], dim=1)
        return functional.normalize(shared, dim=1), functional.normalize(own, dim=1)

    def _joint_entropy(self, pairs: Pairs, shared: Tensor, private: Tensor) -> Float[Tensor, " n"]:
        """Return each sample's log mean of both kernels' product: one kernel of both parts side by side."""
        side = pairs.side_of(torch.cat([shared, private], dim=1))
        stats = pair_stats({"parts": pairs.block_of(side, side)}, {"parts": (self.joint,)}, pairs.group)
        sums = stats["parts", self.joint]
        return sums - 4 * self.sharpness - (pairs.num_negatives + 1).log().to(sums.dtype)
