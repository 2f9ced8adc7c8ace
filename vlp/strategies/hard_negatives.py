"""Wrong captions that the data workers made by rules."""

from __future__ import annotations

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
        return embeddings.with_negatives(batch.num_negatives)
