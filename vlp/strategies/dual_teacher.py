"""Both towers' embeddings of the averaged weights, for terms that learn from a teacher."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float32
from torch import Tensor

from vlp.ground.types import Batch, Embeddings, Teacher
from vlp.strategies.averaged import Averaged
from vlp.strategies.base import strategies


@strategies.register("dual_teacher")
class DualTeacher(Averaged):
    """Embed each pair with averaged weights too and hand the result to terms as `teacher`.

    With `decay: 1.0` and `warmup: false` the teacher is the model as it was at the start: for training on new data what
    must not be forgotten. Costs one more forward pass of both towers without a graph.

    Args:
        decay: Weight of the past at each step.
        warmup: As for `ema`.
        base_batch: As for `ema`.
        negatives: Embed wrong captions too, for `feature_distillation` over all texts.
    """

    provides = frozenset({"teacher"})

    def __init__(
        self, *, decay: float = 0.9996, warmup: bool = True, base_batch: int | None = None, negatives: bool = False
    ):
        super().__init__(decay=decay, warmup=warmup, base_batch=base_batch)
        self.negatives = negatives

    def after_forward(self, images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        return replace(embeddings, teacher=self.teach(images, batch))

    def teach(self, images: Float32[Tensor, "v n 3 h w"], batch: Batch) -> Teacher:
        """Return what the averaged weights say of normalised pixels and captions."""
        count = batch.num_negatives if self.negatives else 0
        read = [0, *range(len(batch.tokens) - count, len(batch.tokens))]
        seen = self.say(images[:1], batch.tokens[read], batch.lengths[read].numpy())
        said = seen.with_negatives(batch) if count else seen
        return Teacher(seen.image, seen.text, said.negatives)
