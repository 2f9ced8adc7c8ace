"""Texts whose word embeddings are moved before the tower reads them: what attacks on texts climb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from vlp.ground.types import RecipeError


def word_embedding_of(tower: nn.Module) -> nn.Embedding:
    """Return the table in which a text tower looks its tokens up: of all tables the one with most rows.

    Raises:
        RecipeError: It has none.
    """
    tables = [module for module in tower.modules() if isinstance(module, nn.Embedding)]
    if not tables:
        raise RecipeError("the text tower looks no tokens up in a table: its word embeddings cannot be moved")
    return max(tables, key=lambda table: table.num_embeddings)


@contextmanager
def shifted_words(tower: nn.Module, shift: Float[Tensor, "n l w"]) -> Iterator[None]:
    """Let a text tower read tokens whose embeddings are moved by so much, within the block.

    Args:
        shift: One vector per token; tokens are read as rows of one length, not packed.
    """

    def move(_table: nn.Module, _inputs: tuple[Tensor], found: Tensor) -> Tensor:
        return found + shift

    handle = word_embedding_of(tower).register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()
