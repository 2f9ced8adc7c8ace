"""Run a text tower on captions cut to their length, where that changes nothing but the time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn


def can_cut(tower: nn.Module) -> bool:
    """Whether the padding behind a caption has no influence on its embedding.

    True for causal towers that pool at the end token, and for transformers encoders, which mask the padding.
    """
    if isinstance(tower, HFTextEncoder):
        return True
    return tower.attn_mask is not None and tower.cls_emb is None and tower.pool_type in ("argmax", "eos")


def embed_in_buckets(
    tower: nn.Module, tokens: Int64[Tensor, "n l"], lengths: Int64[Tensor, " n"], num_buckets: int
) -> Float[Tensor, "n d"]:
    """Embed captions in groups of similar length, each cut to its longest, and return them in the given order.

    Args:
        lengths: On the CPU, so that the cuts are known without waiting for the device.
    """
    order = torch.argsort(lengths, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    sorted_tokens = tokens[order.to(tokens.device, non_blocking=True)]
    groups = zip(sorted_tokens.tensor_split(num_buckets), lengths[order].tensor_split(num_buckets), strict=True)
    parts = [embed_cut(tower, group[:, : int(sizes.max())]) for group, sizes in groups if len(sizes)]
    return torch.cat(parts)[place.to(tokens.device, non_blocking=True)]


def embed_cut(tower: nn.Module, tokens: Int64[Tensor, "n l"]) -> Float[Tensor, "n d"]:
    """Embed tokens of any length up to the tower's context."""
    if isinstance(tower, HFTextEncoder):
        return tower(tokens)
    return _embed_causal(tower, tokens)


def embed_full(
    tower: nn.Module, tokens: Int64[Tensor, "n l"], context_length: int, pad_id: int
) -> Float[Tensor, "n d"]:
    """Embed tokens filled up to the whole context."""
    return tower(F.pad(tokens, (0, context_length - tokens.shape[1]), value=pad_id))


def _embed_causal(tower: TextTransformer, tokens: Int64[Tensor, "n l"]) -> Float[Tensor, "n d"]:
    # open_clip's own forward needs the full context: it does not cut its causal mask
    length = tokens.shape[1]
    hidden, mask = tower._embeds(tokens)
    hidden = tower.ln_final(tower.transformer(hidden, attn_mask=mask[:length, :length]))
    pooled = text_global_pool(hidden, tokens, pool_type=tower.pool_type, eos_token_id=tower.eos_id)
    if isinstance(tower.text_projection, nn.Linear):
        return tower.text_projection(pooled)
    return pooled if tower.text_projection is None else pooled @ tower.text_projection
