"""A causal text tower with a token of its own behind each caption: CoCa's unimodal half."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from open_clip.transformer import TextTransformer
from torch import Tensor, nn


class ClassTokenText(TextTransformer):
    """open_clip's text transformer with a class token, for captions of any length up to its context.

    Yu et al. 2022, section 3.2 (arXiv:2205.01917): one pass serves both losses. The class token comes last, so that the
    causal mask hides it from the caption; its state is the caption's embedding, those of the caption's tokens are what
    a decoder reads. It sees its caption and itself, and no padding.

    open_clip's mask lies one place off (`correct_cls_mask` is false, and no configuration of its can set it): there the
    class token sees the first place of the padding, and not itself unless the caption fills the context. Its published
    weights were trained so. To both, a token of a caption that has the padding's id is padding.
    """

    def forward(self, text: Int64[Tensor, "n l"]) -> Tensor | tuple[Float[Tensor, "n d"], Float[Tensor, "n l w"]]:
        """Embed captions; with `output_tokens`, also return the states of their tokens."""
        length = text.shape[1]
        if not self.correct_cls_mask and length < self.context_length:
            text = F.pad(text, (0, 1), value=self.pad_id)  # for open_clip's mask
        found = super().forward(text)
        return (found[0], found[1][:, :length]) if self.output_tokens else found

    def _embeds(self, text: Int64[Tensor, "n l"]) -> tuple[Float[Tensor, "n m w"], Float[Tensor, "h m m"]]:
        number_format = self.transformer.get_cast_dtype()
        size, length = text.shape
        last = self.cls_emb.to(number_format).expand(size, 1, -1)
        hidden = torch.cat([self.token_embedding(text).to(number_format), last], dim=1)
        positions = torch.cat([self.positional_embedding[:length], self.positional_embedding[-1:]])
        mask = self._build_additive_mask(text, length + 1, hidden.dtype)
        return hidden + positions.to(number_format), self.attn_mask[: length + 1, : length + 1] + mask


def make_class_token(tower: nn.Module, *, sees_padding: bool) -> None:
    """Let open_clip's own text transformer with a class token take captions of any length.

    Args:
        sees_padding: Keep open_clip's mask.
    """
    if type(tower) is TextTransformer and tower.cls_emb is not None and tower.attn_mask is not None:
        tower.__class__ = ClassTokenText
        tower.correct_cls_mask = not sees_padding  # type: ignore[assignment]
