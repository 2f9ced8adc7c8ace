"""A strategy that lets averaged weights embed each batch too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from vlp.ground.types import Embeddings
from vlp.strategies.ema import Ema
from vlp.towers.dual import DualEncoder
from vlp.towers.sharding import split_again

VISUAL = "core.visual."


class Averaged(Ema):
    """Average the weights and keep hold of the model, to run it with them.

    Where parameters are split over processes, the averages are those of a twin, split alike, which is run instead: the
    model's own are gathered and on their way to the backward pass. The twin takes no more memory than the averages.

    Args:
        decay: Weight of the past at each step.
        warmup: As for `ema`, and so is `base_batch`.
    """

    reads_images = True

    def __init__(self, *, decay: float, warmup: bool, base_batch: int | None):
        super().__init__(decay=decay, warmup=warmup, base_batch=base_batch)
        self._model: DualEncoder | None = None
        self._twin: DualEncoder | None = None

    def twin_of(self, model: DualEncoder) -> DualEncoder:
        self._twin = deepcopy(model).requires_grad_(requires_grad=False).eval()
        return self._twin

    def start(self, model: DualEncoder) -> None:
        if self._twin is None:
            super().start(model)
        else:
            self.average = dict(self._twin.state_dict())
        self._model = model

    @contextmanager
    def at_rest(self) -> Iterator[DualEncoder]:
        """Lend the model, or its twin, in evaluation mode, without gradients."""
        assert self._model is not None, "start() comes first"
        model = self._twin or self._model
        with model.at_rest(), torch.no_grad():
            yield model
        if self._twin is not None:
            split_again(self._twin)  # there is no backward pass to do so, and the averages move on

    def look(self, images: Float[Tensor, "n 3 h w"]) -> Any:
        """Return what the image tower says of images with averaged weights, at rest and without gradients."""
        averages = {name.removeprefix(VISUAL): value for name, value in self.average.items() if name.startswith(VISUAL)}
        with self.at_rest() as model:
            return model.see(images) if model is self._twin else functional_call(model.core.visual, averages, (images,))

    def say(self, *inputs: Any) -> Embeddings:
        """Return what both towers say with averaged weights, at rest and without gradients; takes what they take."""
        with self.at_rest() as model:
            found: Embeddings = model(*inputs) if model is self._twin else functional_call(model, self.average, inputs)
        return found
