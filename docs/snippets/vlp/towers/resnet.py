"""CLIP's residual network, spelled out."""

from __future__ import annotations

from typing import Any

from vlp.ground.types import RecipeError
from vlp.towers.base import Fragment, image_towers


@image_towers.register("resnet")
class ResNet:
    """CLIP's residual network with attention pooling (Radford et al. 2021, section 2.4, arXiv:2103.00020).

    Args:
        layers: Residual blocks of the four stages.
        width: Channels of the first stage; the last has 32 times as many.
        head_width: Width of a head of the attention pooling.
        image_size: Side of the square input, a multiple of 32.
    """

    def __init__(
        self,
        *,
        layers: tuple[int, int, int, int] = (3, 4, 6, 3),
        width: int = 64,
        head_width: int = 64,
        image_size: int = 224,
    ):
        if image_size % 32:
            raise RecipeError(f"image.image_size {image_size} is no multiple of 32, by which the network shrinks it")
        self.config: dict[str, Any] = {
            "layers": list(layers),
            "width": width,
            "head_width": head_width,
            "image_size": image_size,
        }

    def fragment(self) -> Fragment:
        return Fragment(self.config)
