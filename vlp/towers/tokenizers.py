"""Tokenizers: the ids of open_clip's tokenizers, cut to the longest text of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import open_clip
import torch
from jaxtyping import Int64
from torch import Tensor

from vlp.types import RecipeError, Tokenizer


class PaddingTokenizer(Tokenizer, Protocol):
    """A tokenizer that says which id fills short texts."""

    pad_id: int

    def clean(self, text: str) -> str: ...


class ClipTokenizer:
    """CLIP's byte pairs; ids equal those of `open_clip.get_tokenizer`.

    Args:
        context_length: Tokens per text; longer texts are cut and keep their end token.
        clean: open_clip's text cleaning: `lower`, `whitespace` or `canonicalize`.
    """

    pad_id = 0

    def __init__(self, *, context_length: int, clean: str = "lower"):
        self.context_length = context_length
        self.words = _byte_pairs(clean)

    def clean(self, text: str) -> str:
        """Return what is left of a text before it is split into tokens."""
        return self.words.clean_fn(text)

    def __call__(self, texts: Sequence[str]) -> tuple[Int64[Tensor, "n l"], Int64[Tensor, " n"]]:
        start, end = self.words.sot_token_id, self.words.eot_token_id
        ids = [[start, *self.words.encode(text)[: self.context_length - 2], end] for text in texts]
        return pad_rows(ids, self.pad_id)


class TransformersTokenizer:
    """A transformers tokenizer behind open_clip's text cleaning; ids equal those of open_clip's `HFTokenizer`.

    Args:
        name: Hub id or folder.
        context_length: Tokens per text; longer texts are cut and keep their end token.
        clean: open_clip's text cleaning: `lower`, `whitespace` or `canonicalize`.
        strip_sep_token: Replace separator tokens by zeros.

    Raises:
        RecipeError: No such tokenizer, or it pads on the left or not at all.
    """

    def __init__(self, *, name: str, context_length: int, clean: str = "whitespace", strip_sep_token: bool = False):
        self.name = name
        self.cleaning = clean
        self.context_length = context_length
        try:
            self.cleaned = open_clip.tokenizer.HFTokenizer(
                name, context_length=context_length, clean=clean, strip_sep_token=strip_sep_token
            )
        except Exception as error:  # transformers raises its own, the hub's and the network's errors
            raise RecipeError(
                f"cannot load the tokenizer '{name}': {error}; set text.tokenizer to a folder that has it"
            ) from error
        self.words = self.cleaned.tokenizer
        if self.words.pad_token_id is None or self.words.padding_side != "right":
            raise RecipeError(
                f"the tokenizer '{name}' does not pad on the right: the towers read captions from the left"
            )
        self.pad_id = self.words.pad_token_id

    def clean(self, text: str) -> str:
        """Return what is left of a text before it is split into tokens."""
        return self.cleaned.clean_fn(text)

    def __call__(self, texts: Sequence[str]) -> tuple[Int64[Tensor, "n l"], Int64[Tensor, " n"]]:
        ids = self.words(
            [self.clean(text) for text in texts], truncation=True, max_length=self.context_length
        ).input_ids
        tokens, lengths = pad_rows(ids, self.pad_id)
        if self.cleaned.strip_sep_token:
            tokens = tokens.masked_fill(tokens == self.words.sep_token_id, 0)
        return tokens, lengths


@cache
def _byte_pairs(clean: str) -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(clean=clean)


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> tuple[Int64[Tensor, "n l"], Int64[Tensor, " n"]]:
    """Return the rows as one tensor as wide as the longest, and their lengths."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    width = max(map(len, rows), default=0)
    tokens = torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.int64)
    return tokens.reshape(len(rows), width), lengths


def tokenizer_for(text_cfg: Mapping[str, Any]) -> PaddingTokenizer:
    """Return the tokenizer that an open_clip `text_cfg` asks for.

    Raises:
        RecipeError: The tokenizer cannot be loaded, or draws tokens at random.
    """
    settings = dict(text_cfg.get("tokenizer_kwargs") or {})
    context_length = text_cfg.get("context_length", 77)
    if settings.pop("reduction_mask", "") or text_cfg.get("tokenizer_mode"):
        raise RecipeError(
            "this open_clip configuration reduces captions at random or in a mode of its own (tokenizer_kwargs."
            "reduction_mask, tokenizer_mode), which training does not repeat exactly: remove the entry"
        )
    name = text_cfg.get("hf_tokenizer_name")
    unknown = set(settings) - ({"clean", "strip_sep_token"} if name else {"clean"})
    if unknown:
        raise RecipeError(f"text tokenizer_kwargs {sorted(unknown)} are not supported")
    if name:
        return TransformersTokenizer(name=name, context_length=context_length, **settings)
    return ClipTokenizer(context_length=context_length, **settings)
