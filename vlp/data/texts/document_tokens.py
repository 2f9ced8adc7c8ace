"""Tokens of excerpts of documents: their texts one behind the other, each begun by the place of its image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from vlp.data.texts.documents import Excerpt
from vlp.ground.interleaved import Interleaved
from vlp.ground.tokenizing import Tokenizer

Row = Int64[NDArray[np.int64], " l"]


def document_rows(
    excerpts: Sequence[Excerpt], most: int, tokenizer: Tokenizer
) -> tuple[Int64[Tensor, "n l"], Int64[Tensor, " n"], Interleaved]:
    """Return tokens, how many of them each excerpt has, and which image each token looks at.

    The start token of a text stands for the image right before it, so that a pair reads as it does without documents:
    `<start> text <end>`. An image without a text is its start token alone. Where all texts together are longer than the
    context, the longest are cut to one length, without an end token: nobody learns to stop there. Of the text before
    the first image the end is kept.

    Args:
        most: Images that an excerpt may have.
    """
    tokens, lengths = tokenizer([text for excerpt in excerpts for text in excerpt.texts])
    rows = iter([row[:length] for row, length in zip(tokens.numpy(), lengths.tolist(), strict=True)])
    found, seen = [], []
    for excerpt in excerpts:
        parts = [_framed(next(rows), text, is_lead=not number) for number, text in enumerate(excerpt.texts)]
        parts = _cut(parts, tokenizer.context_length)
        found.append(np.concatenate(parts))
        seen.append(np.repeat(np.arange(len(parts)), [len(part) for part in parts]))
    sizes = np.array([len(row) for row in found])
    filled = np.full((len(found), sizes.max()), tokenizer.pad_id, dtype=np.int64)
    looks = np.zeros_like(filled)
    for row, tokens_of, seen_of in zip(range(len(found)), found, seen, strict=True):
        filled[row, : len(tokens_of)], looks[row, : len(seen_of)] = tokens_of, seen_of
    images = np.array([len(excerpt.images) for excerpt in excerpts], dtype=np.int64)
    return torch.from_numpy(filled), torch.from_numpy(sizes), Interleaved(images, looks, most)


def _framed(row: Row, text: str, *, is_lead: bool) -> Row:
    if text:
        return row
    return row[:0] if is_lead else row[:1]


def _cut(parts: list[Row], most: int) -> list[Row]:
    """Cut the longest parts to one length, so that all fit; of the first, which stands before all images, the start."""
    sizes = [len(part) for part in parts]
    if sum(sizes) <= most:
        return parts
    length = next(length for length in range(most, -1, -1) if sum(min(size, length) for size in sizes) <= most)
    lead, *others = parts
    if len(lead) > length:
        lead = np.concatenate([lead[:1], lead[len(lead) - length + 1 :]]) if length else lead[:0]
    return [lead, *(part[:length] for part in others)]
