"""Image features of the averaged weights, as a reference for terms that weigh pairs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from vlp.strategies.base import strategies
from vlp.strategies.ema import Ema
from vlp.towers.dual import DualEncoder
from vlp.types import Batch, Embeddings

VISUAL = "core.visual."


@strategies.register("ema_teacher")
class EmaTeacher(Ema):
    """Embed each image with averaged weights too and hand the result to terms as `reference`.

    Costs one more forward pass of the image tower without a graph.

    Args:
        decay: Weight of the past at each step.
        warmup: As for `ema`.
    """

    provides = frozenset({"reference"})
    can_shard = False

    def __init__(self, *, decay: float = 0.999, warmup: bool = True):
        super().__init__(decay=decay, warmup=warmup)
        self.model: DualEncoder | None = None

    def start(self, model: DualEncoder) -> None:
        super().start(model)
        self.model = model

    @torch.no_grad()
    def after_forward(self, images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        assert self.model is not None, "start() comes first"
        was_training = self.model.training
        self.model.eval()
        averages = {name.removeprefix(VISUAL): value for name, value in self.average.items() if name.startswith(VISUAL)}
        features = functional_call(self.model.core.visual, averages, (images[0],))
        self.model.train(was_training)
        return replace(embeddings, reference=functional.normalize(features.float(), dim=1))
