"""Wrong captions made of the right ones, without a language model."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from vlp.ground.draws import pick, uniform
from vlp.ground.types import Batch, Embeddings, send
from vlp.strategies.base import Strategy, strategies


@strategies.register("shuffled_captions")
class ShuffledCaptions(Strategy):
    """Give each image captions with the tokens of its own in another order, as `negatives`.

    Yuksekgonul et al. 2023, section 4 (arXiv:2210.01936), there with a parser that swaps nouns and adjectives. The
    first and the last token keep their places, where models have their marks; a caption with a single token between
    them stays as it is. Each costs a pass of the text tower.

    Args:
        num_negatives: Wrong captions for each image.

    Raises:
        ValueError: Fewer than one.
    """

    provides = frozenset({"negatives"})
    reads_images = False

    def __init__(self, *, num_negatives: int = 1):
        if num_negatives < 1:
            raise ValueError(f"num_negatives {num_negatives} must be at least 1: leave the strategy out for none")
        self.num_negatives = num_negatives

    def before_forward(self, batch: Batch) -> Batch:
        lengths = send(batch.lengths[0], batch.tokens.device)
        wrong = [shuffle(batch.tokens[0], lengths, batch.draws[0], k) for k in range(self.num_negatives)]
        return replace(
            batch,
            tokens=torch.cat([batch.tokens, torch.stack(wrong)]),
            lengths=torch.cat([batch.lengths, batch.lengths[:1].expand(self.num_negatives, -1)]),
            num_negatives=self.num_negatives,
        )

    def after_forward(self, _images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        return embeddings.with_negatives(batch)


def shuffle(
    tokens: Int64[Tensor, "n l"], lengths: Int64[Tensor, " n"], draws: Tensor, variant: int
) -> Int64[Tensor, "n l"]:
    """Return each caption with its inner tokens in another order, which follows from `draws`.

    A caption with fewer than two inner tokens stays as it is.
    """
    places = torch.arange(tokens.shape[1], device=tokens.device)
    inner = (places > 0) & (places < lengths[:, None] - 1)
    keys = uniform(pick(draws[:, 0], 2**24), 0, variant, tokens.shape[1]).to(tokens.device)
    # what stays sorts before or after everything that moves, in its own order
    fixed = torch.where(places == 0, 0.0, 2.0 + places)
    order = torch.where(inner, keys + 1, fixed).argsort(dim=1)
    unchanged = (order == places).all(dim=1, keepdim=True)
    backwards = torch.where(inner, 2 - places / len(places), fixed).argsort(dim=1)
    return tokens.gather(1, torch.where(unchanged, backwards, order))
