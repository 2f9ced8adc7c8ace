"""What turns texts into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Int64
from torch import Tensor


class Tokenizer(Protocol):
    """Texts to token ids, cut to the longest of the batch, and the length of each including its end token.

    `pad_id` fills the texts that are shorter than the longest.
    """

    context_length: int
    pad_id: int

    def __call__(self, texts: Sequence[str]) -> tuple[Int64[Tensor, "n l"], Int64[Tensor, " n"]]: ...
