"""Views of an image that prompts are to say the same of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torchvision.transforms import InterpolationMode, v2

from vlp.data.pixels.policies import Policy

LINEAR = InterpolationMode.BILINEAR
KERNEL = 13  # pixels: three of the largest sigma to either side


class StrongView(Policy):
    """A crop, mirrored or not, of other colours and blurred: MoCo v3 (Chen et al. 2021, arXiv:2104.02057), as GOPro
    has it.

    Args:
        size: Height and width of the view.
    """

    def __init__(self, size: tuple[int, int]):
        self.size = size

    def transform(self) -> nn.Module:
        return v2.Compose(
            [
                v2.RandomResizedCrop(self.size, scale=(0.08, 1.0), interpolation=LINEAR, antialias=True),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.GaussianBlur(KERNEL, sigma=(0.1, 2.0)),
                v2.RandomHorizontalFlip(),
            ]
        )


class MixedView(Policy):
    """A crop, mirrored or not, mixed with changed copies of itself: AugMix (Hendrycks et al. 2020, arXiv:1912.02781) at
    severity 1, as GOPro has it.

    Args:
        size: Height and width of the view.
    """

    def __init__(self, size: tuple[int, int]):
        self.size = size

    def transform(self) -> nn.Module:
        return v2.Compose(
            [
                v2.RandomResizedCrop(self.size, interpolation=LINEAR, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.AugMix(severity=1, mixture_width=3, chain_depth=-1, alpha=1.0, all_ops=False, interpolation=LINEAR),
            ]
        )


def change(pixels: NDArray[np.uint8], policy: Policy, key: int) -> NDArray[np.uint8]:
    """Return a view [3, h, w] of an image [3, h, w]; `key` decides everything."""
    changed = policy(pixels.transpose(1, 2, 0), key)
    return np.ascontiguousarray(changed.transpose(2, 0, 1))
