"""Wrong captions that come with the samples: made by rules, written beside them, or mined."""

from __future__ import annotations

from torch import Tensor

from vlp.ground.types import Batch, Embeddings
from vlp.strategies.base import Strategy, strategies


@strategies.register("hard_negatives")
class HardNegatives(Strategy):
    """Hand the wrong captions of `data.captions.negatives` to terms as `negatives`.

    Rules make them, or they stand under a key of the sample, or are mined among the captions of others by `vlp mine` or
    by the training itself. Each costs a pass of the text tower. `shuffled_captions` needs no rules and knows no words;
    the two exclude each other.
    """

    provides = frozenset({"negatives"})
    reads_images = False

    def after_forward(self, _images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        return embeddings.with_negatives(batch)
