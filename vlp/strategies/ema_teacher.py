"""Image features of the averaged weights, as a reference for terms that weigh pairs."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn import functional

from vlp.ground.types import Batch, Embeddings
from vlp.strategies.averaged import Averaged
from vlp.strategies.base import strategies
from vlp.towers.image_tokens import only_rows


@strategies.register("ema_teacher")
class EmaTeacher(Averaged):
    """Embed each image with averaged weights too and hand the result to terms as `reference`.

    Costs one more forward pass of the image tower without a graph.

    Args:
        decay: Weight of the past at each step.
        warmup: As for `ema`.
        base_batch: As for `ema`.
    """

    provides = frozenset({"reference"})

    def __init__(self, *, decay: float = 0.999, warmup: bool = True, base_batch: int | None = None):
        super().__init__(decay=decay, warmup=warmup, base_batch=base_batch)

    def after_forward(self, images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        features = only_rows(self.look(images[0]))
        return replace(embeddings, reference=functional.normalize(features.float(), dim=1))
