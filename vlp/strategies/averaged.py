"""A strategy that lets averaged weights embed each batch too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlp.strategies.ema import Ema
from vlp.towers.dual import DualEncoder


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
