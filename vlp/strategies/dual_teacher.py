"""Both towers' embeddings of the averaged weights, for terms that learn from a teacher."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float32
from torch import Tensor
from torch.func import functional_call

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
    """

    provides = frozenset({"teacher"})

    def __init__(self, *, decay: float = 0.9996, warmup: bool = True):
        super().__init__(decay=decay, warmup=warmup)

    def after_forward(self, images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        return replace(embeddings, teacher=self.teach(images, batch))

    def teach(self, images: Float32[Tensor, "v n 3 h w"], batch: Batch) -> Teacher:
        """Return what the averaged weights say of normalised pixels and captions."""
        inputs = (images[:1], batch.tokens[:1], batch.lengths[:1].numpy())
        with self.at_rest() as model:
            seen: Embeddings = functional_call(model, self.average, inputs)
        return Teacher(seen.image, seen.text)
