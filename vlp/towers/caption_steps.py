"""One more word of a caption for little: what attention has seen of earlier words, and of the image, is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from vlp.towers.attention import LeanBlock
from vlp.towers.caption_decoder import CaptionDecoder
from vlp.towers.class_token import ClassTokenText

Seen = tuple[Float[Tensor, "n h k c"], Float[Tensor, "n h k c"]]
Keep = Callable[[Tensor, Tensor, int], Seen]


def can_step(text: ClassTokenText, decoder: CaptionDecoder) -> bool:
    """Whether all blocks are of the kind that is known here."""
    blocks = (*text.transformer.resblocks, *decoder.resblocks, *decoder.cross_attn)
    return all(isinstance(block, LeanBlock) and block.is_lean for block in blocks)


def look(decoder: CaptionDecoder, image_tokens: Float[Tensor, "n k v"]) -> list[Seen]:
    """Return the keys and values of images, block by block, for any number of steps."""
    found = []
    image_tokens = decoder.seen(image_tokens)
    for block in decoder.cross_attn:
        seen = block.project(block.ln_1_kv(image_tokens))
        _, keys, values = _by_head(seen, block)
        found.append((keys, values))
    return found


def step(
    text: ClassTokenText,
    decoder: CaptionDecoder,
    tokens: Int64[Tensor, "m l"],
    start: int,
    images: list[Seen],
    keep: Keep,
) -> Float[Tensor, "m v"]:
    """Return the logits of the word behind each row.

    Args:
        tokens: What no step has seen yet of each caption; all captions, if none has been taken.
        start: How many tokens earlier steps have seen.
        images: Of `n` images, each of which has `m / n` rows, one behind the other.
        keep: Called with keys and values of these tokens and the number of a block; returns those of all so far.
    """
    places = slice(start, start + tokens.shape[1])
    hidden = text.token_embedding(tokens) + text.positional_embedding[places]
    number = 0
    for block in text.transformer.resblocks:
        hidden = _through(block, hidden, _among(block, keep, number))
        number += 1
    shown = iter(images)
    for block, looks in decoder.in_order():
        if looks:
            hidden = _through(block, hidden, _at(block, next(shown)))
        else:
            hidden = _through(block, hidden, _among(block, keep, number))
            number += 1
    logits: Tensor = decoder.ln_final(hidden[:, -1]) @ decoder.text_projection
    return logits


def _through(block: Any, hidden: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    hidden = hidden + block.ls_1(attend(block.ln_1(hidden)))
    found: Tensor = hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
    return found


def _among(block: Any, keep: Keep, number: int) -> Callable[[Tensor], Tensor]:
    """Attend to all words so far, and to nothing behind a word."""

    def attend(rows: Tensor) -> Tensor:
        queries, keys, values = _by_head(block.project(rows), block)
        keys, values = keep(keys, values, number)
        seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=rows.shape[1] > 1)
        return _out(block, seen)

    return attend


def _at(block: Any, image: Seen) -> Callable[[Tensor], Tensor]:
    """Attend to an image; the rows of one are further queries of it, so that its keys are not copied for each."""

    def attend(rows: Tensor) -> Tensor:
        (count, length, width), (keys, values) = rows.shape, image
        queries, _, _ = _by_head(block.project(rows.reshape(len(keys), -1, width)), block)
        return _out(block, F.scaled_dot_product_attention(queries, keys, values)).view(count, length, width)

    return attend


def _by_head(rows: Float[Tensor, "n l w3"], block: Any) -> tuple[Tensor, Tensor, Tensor]:
    count, length, _ = rows.shape
    parts = rows.view(count, length, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    queries, keys, values = parts.unbind()
    return queries, keys, values


def _out(block: Any, seen: Float[Tensor, "n h l c"]) -> Float[Tensor, "n l w"]:
    found: Tensor = block.attn.out_proj(seen.transpose(1, 2).flatten(2))
    return found
