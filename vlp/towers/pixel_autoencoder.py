"""An auto-encoder of images that stands in front of an image tower, and begins as the identity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

PROGRAM_FILE = "purifier.pt2"  # beside an exported model
PLACE = "purifier"  # what it is called within the tower that it stands in front of


class PixelAutoencoder(nn.Module):
    """Shrink an image to a sixteenth of its pixels, and add to it what comes back: nothing at first.

    Args:
        width: Channels at the full size; a half and a quarter of the side have twice and four times as many.
    """

    def __init__(self, width: int):
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.shrink = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.shrink_more = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.inside = nn.Conv2d(4 * width, 4 * width, 3, padding=1)
        self.grow = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.grow_more = nn.Conv2d(2 * width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 3, 3, padding=1)
        self.norm_small, self.norm_large = nn.GroupNorm(1, 4 * width), nn.GroupNorm(1, width)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None, "convolutions have one unless told otherwise"
        nn.init.zeros_(self.leave.bias)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Return normalised pixels in place of normalised pixels."""
        return images + self.change(images)

    def change(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Return what is added to normalised pixels."""
        large = F.gelu(self.enter(images))
        middle = F.gelu(self.shrink(large))
        small = self.norm_small(F.gelu(self.shrink_more(middle)))
        small = small + F.gelu(self.inside(small))
        middle = F.gelu(self.grow(F.interpolate(small, size=middle.shape[-2:])))
        large = self.norm_large(F.gelu(self.grow_more(F.interpolate(middle, size=large.shape[-2:]))))
        changed: Tensor = self.leave(large)
        return changed


def stand_in_front(tower: nn.Module, autoencoder: PixelAutoencoder) -> None:
    """Let every image go through the auto-encoder before the tower sees it; its weights are saved with the tower's."""
    tower.add_module(PLACE, autoencoder)
    tower.register_forward_pre_hook(_purify)


def purifier_of(tower: nn.Module) -> PixelAutoencoder | None:
    """Return what stands in front of a tower, if anything."""
    return getattr(tower, PLACE, None)


@contextmanager
def stepped_aside(tower: nn.Module) -> Iterator[PixelAutoencoder | None]:
    """Within the block nothing stands in front of the tower; lend what otherwise does."""
    autoencoder = purifier_of(tower)
    if autoencoder is not None:
        delattr(tower, PLACE)
    try:
        yield autoencoder
    finally:
        if autoencoder is not None:
            tower.add_module(PLACE, autoencoder)


def squared_change(
    tower: nn.Module, images: Float[Tensor, "n 3 h w"], std: tuple[float, float, float]
) -> Float32[Tensor, " n"]:
    """Return how far what stands in front of a tower moves each image: the mean square over its colours, in 255ths.

    Args:
        images: Normalised pixels.
        std: What they were divided by.
    """
    autoencoder = purifier_of(tower)
    assert autoencoder is not None, "the objective checks what terms need"
    moved: Tensor = autoencoder.change(images).float()
    return (moved * moved.new_tensor(std)[:, None, None] * 255).square().mean(dim=(1, 2, 3))


def _purify(tower: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    autoencoder = purifier_of(tower)
    return None if autoencoder is None else (autoencoder(inputs[0]), *inputs[1:])


def as_program(autoencoder: PixelAutoencoder, example: Float[Tensor, "n 3 h w"]) -> torch.export.ExportedProgram:
    """Return the auto-encoder as a program that torch alone runs, for any number of images of the example's size."""
    images = torch.export.Dim("images", min=1)
    return torch.export.export(autoencoder.cpu(), (example.cpu(),), dynamic_shapes=({0: images},))
