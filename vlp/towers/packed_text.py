"""A causal text tower that runs once over all captions of a batch, laid one behind the other."""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from vlp.towers.attention import LeanBlock
from vlp.towers.caption_layout import CaptionLayout
from vlp.towers.unpadded_attention import can_attend_unpadded


class PackedTextTransformer(TextTransformer):
    """open_clip's text transformer for captions of any length up to its context, alone or packed."""

    def forward(self, text: Int64[Tensor, "n l"], layout: CaptionLayout | None = None) -> Float[Tensor, "n d"]:
        """Embed captions.

        Args:
            text: Rows of one length; with a layout they may be as wide as they like.
            layout: Run over them as it lays them out.
        """
        if layout is None:
            found: Tensor = super().forward(text)
            return found
        number_format = self.transformer.get_cast_dtype()
        hidden = self.token_embedding(text.flatten()[layout.tokens]).to(number_format)
        hidden = hidden + F.embedding(layout.positions, self.positional_embedding).to(number_format)
        hidden = self.transformer(hidden[None], attn_mask=layout)[0]
        pooled = self.ln_final(hidden[layout.starts + self._ends(text)])
        if self.text_projection is None:
            return pooled
        if isinstance(self.text_projection, nn.Linear):
            projected: Tensor = self.text_projection(pooled)
            return projected
        return pooled @ self.text_projection

    def _ends(self, text: Int64[Tensor, "n l"]) -> Int64[Tensor, " n"]:
        """Return where each caption is pooled: at its first end token, which has the highest number."""
        return text.argmax(dim=-1) if self.pool_type == "argmax" else (text == self.eos_id).int().argmax(dim=-1)

    def _embeds(self, text: Int64[Tensor, "n l"]) -> tuple[Float[Tensor, "n l w"], Float[Tensor, "... l l"] | None]:
        hidden, mask = super()._embeds(text)
        length = hidden.shape[1]  # open_clip's own mask wants the whole context
        return hidden, None if mask is None else mask[..., :length, :length]

    def needs_padding(self, device: torch.device) -> bool:
        """Whether captions of unequal lengths must be padded to one another on a device, in what autocast computes."""
        held = self.transformer.get_cast_dtype()
        is_cast = torch.is_autocast_enabled(device.type)
        number_format = torch.get_autocast_dtype(device.type) if is_cast else held
        widths = {block.attn.embed_dim // block.attn.num_heads for block in self.transformer.resblocks}
        return not all(can_attend_unpadded(device, number_format, width) for width in widths)


def make_packed(tower: nn.Module) -> None:
    """Let open_clip's own text transformer take captions of any length, and layouts of them."""
    if type(tower) is TextTransformer:
        tower.__class__ = PackedTextTransformer


def can_pack(tower: nn.Module) -> TypeGuard[PackedTextTransformer]:
    """Whether a tower takes layouts of captions; `can_cut` says whether they change nothing."""
    return isinstance(tower, PackedTextTransformer) and all(
        isinstance(block, LeanBlock) and block.is_lean for block in tower.transformer.resblocks
    )
