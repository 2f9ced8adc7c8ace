"""Whether a text tower and a tokenizer fit together: tried on captions of every length before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray
from open_clip.hf_model import HFTextEncoder
from torch import nn

from vlp.ground.types import RecipeError
from vlp.towers.class_token import ClassTokenText
from vlp.towers.tokenizers import PaddingTokenizer

WORDS = ("a", "photo", "of", "two", "red", "boats", "near", "the", "old", "harbour", ".", "7", "zebras", "quietly")


def check_tokenizer(text: nn.Module, text_cfg: Mapping[str, Any], tokenizer: PaddingTokenizer) -> None:
    """Refuse a tokenizer whose ids the tower has no place for, or whose captions it would read at the wrong token.

    Args:
        text: open_clip's text tower.
        text_cfg: Its configuration.

    Raises:
        RecipeError: Names the key and a way out.
    """
    table: int = text.vocab_size  # type: ignore[assignment]
    if tokenizer.highest_id >= table:
        raise RecipeError(
            f"text.vocab_size: the tokenizer has ids up to {tokenizer.highest_id}, the tower {table} rows: set "
            f"text.vocab_size={tokenizer.highest_id + 1}, or choose the tokenizer that belongs to the tower"
        )
    if isinstance(text, HFTextEncoder) and tokenizer.pad_id != text.config.pad_token_id:
        raise RecipeError(
            f"text.tokenizer: it fills captions with the id {tokenizer.pad_id}, the encoder masks "
            f"{text.config.pad_token_id}: choose the tokenizer that belongs to the encoder"
        )
    rows = list(_try_all_lengths(tokenizer, text_cfg.get("context_length", 77)))
    if not all(len(row) for row in rows):
        raise RecipeError(
            "text.tokenizer: it makes no token of an empty caption, so that nothing could be read: choose one that "
            "adds a start or end token"
        )
    if isinstance(text, ClassTokenText):
        if tokenizer.pad_id != text.pad_id:
            raise RecipeError(
                f"text.pad_id: the tokenizer fills captions with the id {tokenizer.pad_id}, the tower masks "
                f"{text.pad_id}: set text.pad_id={tokenizer.pad_id}"
            )
    elif not isinstance(text, HFTextEncoder) and text.pool_type in ("argmax", "eos"):
        _check_end(rows, text, tokenizer)


def _check_end(rows: list[NDArray[np.int64]], text: nn.Module, tokenizer: PaddingTokenizer) -> None:
    """Every caption must end, cut or not, with the token that the tower reads."""
    ends = {int(row[-1]) for row in rows}
    if len(ends) > 1:
        raise RecipeError(
            f"text.pool '{text.pool_type}' reads the token at the end of a caption, and this tokenizer puts none "
            "there: choose a tokenizer that adds one, or text.causal=false with text.pool=first or last"
        )
    (end,) = ends
    if text.pool_type == "eos":
        if text.eos_id != end or any(text.eos_id in row[:-1] for row in rows):
            raise RecipeError(
                f"text.end_id: captions of this tokenizer end with the id {end}, not {text.eos_id}: set "
                f"text.end_id={end}"
            )
    elif tokenizer.pad_id > end or any(row.argmax() < len(row) - 1 for row in rows):
        raise RecipeError(
            "text.pool 'argmax' reads the token of the highest id, which is a word here: captions of this tokenizer "
            f"end with the id {end}: set text.pool=eos and text.end_id={end}"
        )


def _try_all_lengths(tokenizer: PaddingTokenizer, context_length: int) -> Iterator[Int64[NDArray, " n"]]:
    """Yield the ids of captions from no word to more than the context holds."""
    texts = [" ".join(WORDS[place % len(WORDS)] for place in range(count)) for count in range(context_length + 2)]
    tokens, lengths = tokenizer([*texts, "x" * (4 * context_length)])
    for row, length in zip(tokens.numpy(), lengths.tolist(), strict=True):
        yield row[:length]
