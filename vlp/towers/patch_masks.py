"""The parts of image towers that leave patches out."""

from __future__ import annotations

from typing import TypeAlias

from open_clip.transformer import PatchDropout
from timm.layers import PatchDropout as TimmPatchDropout
from timm.layers import PatchDropoutWithIndices
from torch import nn

Mask: TypeAlias = PatchDropout | TimmPatchDropout | PatchDropoutWithIndices


def masks_of(visual: nn.Module) -> list[Mask]:
    """Return what leaves patches out in training, in the towers of open_clip and timm; `prob` is the share."""
    found = [module for module in visual.modules() if isinstance(module, Mask)]
    return [mask for mask in found if mask.prob > 0]
