"""Residual blocks of open_clip's towers with few copies, and for captions that lie one behind the other."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip import transformer
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from vlp.towers.caption_layout import CaptionLayout
from vlp.towers.low_rank import ADAPTER
from vlp.towers.unpadded_attention import attend_unpadded

ATTENTIONS = {nn.MultiheadAttention, getattr(transformer, "Attention", nn.MultiheadAttention)}
"""Torch's, and open_clip's own, which its blocks have since version 4."""
NONE_OF = ("bias_k", "bias_v", "head_scale", "logit_scale")
"""What an attention has none of, if it knows it at all, where it is nothing but softmax attention."""


class LeanBlock(ResidualAttentionBlock):
    """open_clip's block, computing the same with fewer copies.

    A layout of captions may take the place of the mask: each caption then sees itself alone, causally. Masks with an
    axis of heads, [n, h, l, l], may differ from sequence to sequence.
    """

    @property
    def is_lean(self) -> bool:
        """Whether nobody has put another attention in, such as one with adapters, or listens to the one it has."""
        layer: Any = self.attn
        return type(layer) in ATTENTIONS and not layer._forward_hooks and not layer._forward_pre_hooks

    def project(self, tokens: Float[Tensor, "... w"]) -> Float[Tensor, "... w3"]:
        """Return queries, keys and values of tokens, side by side."""
        layer = self.attn
        adapter: Any = getattr(layer, ADAPTER, None)
        rows = F.linear(tokens, layer.in_proj_weight, layer.in_proj_bias)
        return rows if adapter is None else rows + adapter(tokens)

    def attention(self, q_x: Tensor, k_x: Any = None, v_x: Any = None, attn_mask: Any = None) -> Tensor:
        """Attend to everything, or within the captions of a layout; to anything else as ever, unless it is adapted."""
        layer = self.attn
        adapter: Any = getattr(layer, ADAPTER, None)
        is_known = attn_mask is None or isinstance(attn_mask, CaptionLayout) or adapter is not None
        is_known = is_known or attn_mask.ndim == 4
        if not (is_known and k_x is None and v_x is None and self.is_lean):
            found: Tensor = super().attention(q_x, k_x, v_x, attn_mask)
            return found
        rows = self.project(q_x.flatten(0, 1))
        if isinstance(attn_mask, CaptionLayout):
            seen = _attend_within(rows, attn_mask, layer.num_heads)
        else:
            count, longest = q_x.shape[:2]  # not len(), which would write this number into exported programs
            seen = _attend(rows, (count, longest), layer.num_heads, attn_mask)
        out: Tensor = layer.out_proj(seen)
        return out.view(q_x.shape)


def make_lean(tower: nn.Module) -> None:
    """Let all residual blocks of a tower of open_clip compute with few copies, where their attention is a plain one."""
    for block in tower.modules():
        if type(block) is ResidualAttentionBlock and _is_plain(block.attn):
            block.__class__ = LeanBlock


def _attend_within(rows: Float[Tensor, "t w"], layout: CaptionLayout, num_heads: int) -> Float[Tensor, "t d"]:
    """Let each token see those of its own caption that do not stand behind it."""
    if layout.bounds is not None:
        return attend_unpadded(rows, layout.bounds, layout.longest, num_heads)
    parts = rows.split([count * longest for count, longest in layout.groups])
    groups = zip(parts, layout.groups, strict=True)
    return torch.cat([_attend(part, group, num_heads, is_causal=True) for part, group in groups])


def _attend(
    rows: Float[Tensor, "t w"],
    group: tuple[int, int],
    num_heads: int,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
) -> Float[Tensor, "t d"]:
    """Let sequences of one length attend each to itself.

    Args:
        rows: Queries, keys and values of every token, side by side.
        group: Number of sequences, and of tokens in each.
        mask: Added to the scores of what each token sees of its sequence.
    """
    count, longest = group
    queries, keys, values = rows.view(count, longest, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
    if mask is not None:
        mask = mask.to(queries.dtype)
        mask = mask.view(count, num_heads, longest, longest) if mask.ndim == 3 else mask
    seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=is_causal)
    return seen.transpose(1, 2).reshape(count * longest, -1)


def _is_plain(layer: Any) -> bool:
    """Whether an attention, torch's or open_clip's own, is nothing but softmax attention from one projection."""
    drop = getattr(layer, "dropout", 0.0) or getattr(getattr(layer, "attn_drop", None), "p", 0.0)
    drop = drop or getattr(getattr(layer, "out_drop", None), "p", 0.0)
    further = [getattr(layer, name, nn.Identity()) for name in ("ln_q", "ln_k", "ln_inner")]
    return (
        getattr(layer, "in_proj_weight", None) is not None
        and all(getattr(layer, name, None) is None for name in NONE_OF)
        and all(type(module) is nn.Identity for module in further)
        and not getattr(layer, "add_zero_attn", False)
        and drop == 0.0
    )
