"""The least that a tower can be run on, to see that it runs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn


def one_image(visual: nn.Module) -> Float[Tensor, "1 3 h w"]:
    """Return an image of a tower's size."""
    size: int | tuple[int, int] = visual.image_size  # type: ignore[assignment]
    height, width = (size, size) if isinstance(size, int) else size
    return torch.zeros(1, 3, height, width)


def one_text(text: nn.Module, length: int) -> Int64[Tensor, "1 l"]:
    """Return a text of so many tokens, none of which is padding to an encoder of transformers."""
    if not isinstance(text, HFTextEncoder):
        return torch.full((1, length), 1)
    return torch.full((1, length), ((text.config.pad_token_id or 0) + 1) % text.config.vocab_size)
