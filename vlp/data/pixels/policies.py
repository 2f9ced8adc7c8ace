"""Published image augmentation policies, in the worker, on the cropped uint8 pixels."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.transforms import InterpolationMode, v2

from vlp.ground.registry import Registry
from vlp.ground.types import RecipeError

WHITE = [255.0, 255.0, 255.0]
# torchvision draws from the one generator of the process.
TURN = threading.Lock()


class Policy(ABC):
    """A change of one image; torchvision's own code, with random numbers that depend on a key alone.

    Attributes:
        moves_pixels: Whether what it changes may come to stand elsewhere in the image.
    """

    moves_pixels: bool = True

    @abstractmethod
    def transform(self) -> nn.Module:
        """Return torchvision's transform."""

    def __call__(self, pixels: NDArray[np.uint8], key: int) -> NDArray[np.uint8]:
        """Return changed pixels of the same shape.

        Args:
            key: 64 bits that decide everything; the global random numbers stay as they are.
        """
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        with TURN, torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the GPUs of a trainer that decodes in its own process.
            torch.default_generator.manual_seed(key)
            changed = self.transform()(image)
        return np.ascontiguousarray(changed.permute(1, 2, 0).numpy())


policies: Registry[Policy] = Registry("image policy", "vlp.data.pixels")


@policies.register("randaugment")
class RandAugment(Policy):
    """Apply a few of 14 changes of position and colour, drawn anew for each image, all equally strong.

    Cubuk et al. 2020 (arXiv:1909.13719). Takes 2 ms for an image of 224 px on one core.

    Args:
        num_ops: Changes in a row.
        magnitude: Strength of every change, from 0 to 30.
    """

    def __init__(self, *, num_ops: int = 2, magnitude: int = 9):
        if num_ops < 1:
            raise RecipeError(f"data.policy.num_ops: {num_ops} is less than 1: leave the policy out for none")
        if not 0 <= magnitude <= 30:
            raise RecipeError(f"data.policy.magnitude: {magnitude} is not between 0 and 30")
        self.num_ops = num_ops
        self.magnitude = magnitude

    def transform(self) -> nn.Module:
        return v2.RandAugment(self.num_ops, self.magnitude, interpolation=InterpolationMode.BILINEAR, fill=WHITE)


@policies.register("augmix")
class AugMix(Policy):
    """Blend an image with a few differently changed copies of itself.

    Hendrycks et al. 2020 (arXiv:1912.02781), without its consistency loss. Takes 7 ms for an image of 224 px on one
    core.

    Args:
        severity: Strength of every change, from 1 to 10.
        width: Changed copies.
        depth: Changes in a row of each copy; -1 draws one to three.
        alpha: How evenly copies and image are weighed.
    """

    def __init__(self, *, severity: int = 3, width: int = 3, depth: int = -1, alpha: float = 1.0):
        if not 1 <= severity <= 10:
            raise RecipeError(f"data.policy.severity: {severity} is not between 1 and 10")
        if width < 1 or depth == 0 or alpha <= 0:
            raise RecipeError(f"data.policy: width {width} and alpha {alpha:g} must be positive, depth {depth} not 0")
        self.severity = severity
        self.width = width
        self.depth = depth
        self.alpha = alpha

    def transform(self) -> nn.Module:
        return v2.AugMix(
            self.severity, self.width, self.depth, self.alpha, interpolation=InterpolationMode.BILINEAR, fill=WHITE
        )
