"""Wrong captions that the data workers made by rules."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vlp.ground.types import Batch, Embeddings
from vlp.strategies.base import Strategy, strategies


@strategies.register("hard_negatives")
class HardNegatives(Strategy):
    """Hand the wrong captions of `data.captions.negatives` to terms as `negatives`.

    Each costs a pass of the text tower. `shuffled_captions` needs no rules and knows no words; the two exclude each
    other.
    """

    provides = frozenset({"negatives"})
    reads_images = False

    def after_forward(self, _images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        kept = len(embeddings.text_views) - batch.num_negatives
        negatives = torch.stack(embeddings.text_views[kept:], dim=1)
        return replace(embeddings, text_views=embeddings.text_views[:kept], negatives=negatives)
