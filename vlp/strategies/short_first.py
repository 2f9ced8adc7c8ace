"""Shorter captions at first."""

from __future__ import annotations

from dataclasses import replace

from vlp.ground.types import Batch, send
from vlp.strategies.base import strategies
from vlp.strategies.first_steps import FirstSteps


@strategies.register("short_first")
class ShortFirst(FirstSteps):
    """Read the first tokens of each caption in the first steps, then all of them.

    CLIPA, Li et al. 2023, section 3.2, "truncation" (arXiv:2305.07017). The last token that is read is the caption's
    last one, as where a tokenizer cuts: towers that pool at the end of a caption find it.

    Args:
        tokens: How many tokens the first steps read, the last one included.
        steps: How many steps read so many.

    Raises:
        ValueError: Fewer than two tokens.
    """

    def __init__(self, *, tokens: int, steps: int):
        if tokens < 2:
            raise ValueError(f"{tokens} tokens must be at least 2: a caption begins and ends")
        super().__init__(steps=steps)
        self.tokens = tokens

    def before_forward(self, batch: Batch) -> Batch:
        if self.is_over() or batch.tokens.shape[-1] <= self.tokens:
            return batch
        lengths = send(batch.lengths, batch.tokens.device)[..., None]
        ends = batch.tokens.gather(-1, lengths - 1)
        cut = batch.tokens[..., : self.tokens].clone()
        last = cut[..., -1:]
        cut[..., -1:] = ends.where(lengths > self.tokens, last)
        return replace(batch, tokens=cut, lengths=batch.lengths.clamp(max=self.tokens))
