"""The images of a whole batch as a teacher has them, which an attack on one of them is measured against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.strategies.anchors import MASKED


@dataclass(frozen=True)
class OtherImages:
    """Embeddings of the images of all processes, without gradient, and whose they are."""

    images: Float32[Tensor, "b d"]
    ids: Int64[Tensor, " b"]

    def miss(
        self,
        embeddings: Float32[Tensor, "n d"],
        own: Float32[Tensor, "n d"],
        ids: Int64[Tensor, " n"],
        scale: Float32[Tensor, ""],
    ) -> Float32[Tensor, " n"]:
        """Return by how much the other images, together, are nearer than each one's own, in logits.

        The softplus of it is what `feature_contrast` says of a row; as of `Anchors`, this one has a gradient too where
        the model is sure.

        Args:
            own: Where the teacher has these images.
            ids: Of the samples; other copies of one are neither right nor wrong.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            logits = scale * (embeddings.float() @ self.images.T)
            right = scale * (embeddings.float() * own).sum(dim=1)
        return logits.masked_fill(ids[:, None] == self.ids, MASKED).logsumexp(dim=1) - right
