"""What averaged weights say of each place of two views, for terms that compare places."""

from __future__ import annotations

import math
from dataclasses import replace

from jaxtyping import Float64
from torch import Tensor

from vlp.ground.types import Batch, Embeddings, RecipeError, send
from vlp.strategies.averaged import Averaged
from vlp.strategies.base import strategies
from vlp.towers.dual import DualEncoder
from vlp.towers.image_tokens import maps_of

COMPARED = 2  # views


@strategies.register("dense_teacher")
class DenseTeacher(Averaged):
    """Look at the first two views of each image with averaged weights too, and hand their maps to terms.

    The momentum branch of PixPro (Xie et al. 2021, arXiv:2011.10043), whose `decay` rises to 1 by half a cosine over
    the whole training. Costs two more forward passes of the image tower without a graph.

    Args:
        decay: Weight of the past at each step.
        warmup: As for `ema`.
        base_batch: As for `ema`.
        last_step: Let `decay` rise to 1 by half a cosine until this step; null leaves it.

    Raises:
        ValueError: A `last_step` below 1.
    """

    provides = frozenset({"taught_maps"})

    def __init__(
        self, *, decay: float = 0.99, warmup: bool = False, base_batch: int | None = None, last_step: int | None = None
    ):
        super().__init__(decay=decay, warmup=warmup, base_batch=base_batch)
        if last_step is not None and last_step < 1:
            raise ValueError(f"last_step {last_step} must be at least 1")
        self.last_step = last_step

    def start(self, model: DualEncoder) -> None:
        if not model.hands_out_maps:
            raise RecipeError(
                "strategies.dense_teacher: no term compares places, so that it would cost time for nothing: add "
                "objective.pixpro={}, or leave it out"
            )
        super().start(model)

    def _newest_share(self) -> Float64[Tensor, ""]:
        share = super()._newest_share()
        if self.last_step is None:
            return share
        done = ((self.num_steps - 1).double() / self.last_step).clamp(0, 1)
        return share * ((math.pi * done).cos() + 1) / 2

    def after_forward(self, images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        assert batch.cuts is not None, "the stream knows them"
        views = images[:COMPARED]
        _, tokens = self.look(views.flatten(0, 1))
        places = [view if view < len(batch.cuts) else 0 for view in range(COMPARED)]  # a strategy's have the first crop
        cuts = send(batch.cuts[places], images.device)
        return replace(embeddings, taught_maps=maps_of(tokens, views), image_cuts=tuple(cuts.unbind()))
