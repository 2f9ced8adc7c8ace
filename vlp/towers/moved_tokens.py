"""Token embeddings that stand somewhere else than their words say, in any text tower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vlp.ground.types import RecipeError
from vlp.towers.learned_tokens import count_prompts
from vlp.towers.token_table import token_table


class MovedTokens:
    """Lets ids below zero name tokens of a table, whose embeddings are moved by offsets.

    The names travel with the tokens through whatever sorts, cuts or packs captions. A name is minus one minus a row;
    rows count through all captions of a batch, the table through those of a micro-batch, all of which are as large.
    Of several on one tower the newest answers to the names.

    Args:
        tower: A text tower of open_clip or transformers.

    Raises:
        RecipeError: It has learned tokens, whose ids lie below zero as well.

    Attributes:
        embedding: The table.
    """

    def __init__(self, tower: nn.Module):
        if count_prompts(tower):
            raise RecipeError(
                "model.tune: learned tokens have ids below zero too, and a caption that has some cannot be moved: take "
                "another way of tuning, or leave the attack on tokens out"
            )
        self.embedding = token_table(tower)
        self._ids: Int64[Tensor, " m"] | None = None
        self._offsets: Float[Tensor, "m w"] | None = None
        self._seen: tuple[Tensor, Tensor] | None = None
        self._norms: list[Tensor] | None = None
        self._hooks = [
            self.embedding.register_forward_pre_hook(self._look_up, prepend=True),
            self.embedding.register_forward_hook(self._move),
        ]

    def remove(self) -> None:
        """Leave the tower as it was, for good."""
        for hook in self._hooks:
            hook.remove()

    @property
    def width(self) -> int:
        """Of the embeddings of tokens."""
        return self.embedding.embedding_dim

    def place(self, ids: Int64[Tensor, "n l"], offsets: Float[Tensor, "n l w"] | None = None) -> None:
        """Say what the names of a micro-batch stand for, until something else is said.

        Args:
            offsets: None leaves all embeddings where they are.
        """
        self._ids, self._offsets = ids.flatten(), None if offsets is None else offsets.flatten(0, 1)

    @contextmanager
    def measuring(self) -> Iterator[list[Tensor]]:
        """Within the block, collect sum and number of the norms of named embeddings, once per call of the tower."""
        found: list[Tensor] = []
        self._norms = found
        try:
            yield found
        finally:
            self._norms = None

    def _look_up(self, _embedding: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        if self._ids is None:
            return None
        (ids,) = inputs
        rows, is_named = (-1 - ids).clamp(min=0) % len(self._ids), ids < 0
        self._seen = rows, is_named
        return (torch.where(is_named, self._ids[rows], ids),)

    def _move(self, _embedding: nn.Module, _inputs: Any, found: Tensor) -> Tensor | None:
        if self._seen is None:
            return None
        (rows, is_named), self._seen = self._seen, None
        if self._norms is not None:
            norms = found.detach().float().norm(dim=-1).where(is_named, 0)
            self._norms.append(torch.stack([norms.sum(), is_named.sum().to(norms.dtype)]))
        if self._offsets is None:
            return None
        return found + self._offsets[rows].to(found.dtype).where(is_named[..., None], 0)


@contextmanager
def moved_tokens(tower: nn.Module, ids: Int64[Tensor, "n l"], offsets: Float[Tensor, "n l w"]) -> Iterator[None]:
    """Let names stand for these tokens, moved by offsets, within the block alone."""
    moved = MovedTokens(tower)
    moved.place(ids, offsets)
    try:
        yield
    finally:
        moved.remove()


def named(tokens: Int64[Tensor, "n l"], movable: Bool[Tensor, "n l"]) -> Int64[Tensor, "n l"]:
    """Return tokens of which the movable ones are names."""
    rows = torch.arange(tokens.numel(), device=tokens.device).view_as(tokens)
    return torch.where(movable, -1 - rows, tokens)
