"""A strategy that lets averaged weights embed each batch too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from vlp.strategies.ema import Ema
from vlp.towers.dual import DualEncoder

VISUAL = "core.visual."


class Averaged(Ema):
    """Average the weights and keep hold of the model, to run it with them.

    Args:
        decay: Weight of the past at each step.
        warmup: As for `ema`, and so is `base_batch`.
    """

    can_shard = False
    reads_images = True

    def __init__(self, *, decay: float, warmup: bool, base_batch: int | None):
        super().__init__(decay=decay, warmup=warmup, base_batch=base_batch)
        self._model: DualEncoder | None = None

    def start(self, model: DualEncoder) -> None:
        super().start(model)
        self._model = model

    @contextmanager
    def at_rest(self) -> Iterator[DualEncoder]:
        """Lend the model in evaluation mode, without gradients."""
        assert self._model is not None, "start() comes first"
        with self._model.at_rest(), torch.no_grad():
            yield self._model

    def look(self, images: Float[Tensor, "n 3 h w"]) -> Any:
        """Return what the image tower says of images with averaged weights, at rest and without gradients."""
        averages = {name.removeprefix(VISUAL): value for name, value in self.average.items() if name.startswith(VISUAL)}
        with self.at_rest() as model:
            return functional_call(model.core.visual, averages, (images,))
