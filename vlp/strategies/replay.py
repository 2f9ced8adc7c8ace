"""Samples of earlier data among new ones, told apart for terms that treat them otherwise."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vlp.ground.types import Batch, Embeddings, send
from vlp.strategies.base import Strategy, strategies


@strategies.register("replay")
class Replay(Strategy):
    """Say which samples of a batch come from data that the model has learned before, as `replayed`.

    For training on new shards what must not be forgotten, where a part of each batch repeats earlier ones (Cappellazzo
    et al. 2023, arXiv:2310.02699): `data.train: {new: {share: 4}, earlier: {share: 1}}`.

    Args:
        sources: Labels of `data.train` whose samples are replayed.

    Raises:
        ValueError: No label.
    """

    provides = frozenset({"replayed"})
    reads_images = False
    changes_captions = False

    def __init__(self, *, sources: tuple[str, ...]):
        if not sources:
            raise ValueError("sources: name at least one label of data.train")
        self.sources = sources

    def after_forward(self, _images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        replayed = torch.tensor([source in self.sources for source in batch.sources])
        return replace(embeddings, replayed=send(replayed, embeddings.image.device))
