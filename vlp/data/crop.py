"""Random resized crop and flip."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlp.data.randomness import Draws
from vlp.types import RecipeError

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
TRIES = 10


class Crop:
    """Cut a random box, resize it with antialiasing and flip it sometimes.

    Szegedy et al. 2015, section 6 (arXiv:1409.4842); the box is drawn as in torchvision's RandomResizedCrop.

    Args:
        size: Side of the result in pixels.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width / height of the box.
        flip: Probability of a mirror image.
        interpolation: Filter of the resize.
    """

    def __init__(
        self,
        size: int,
        *,
        scale: tuple[float, float] = (0.5, 1.0),
        ratio: tuple[float, float] = (0.75, 1.3333),
        flip: float = 0.5,
        interpolation: Literal["bilinear", "bicubic"] = "bicubic",
    ):
        if not 0 < scale[0] <= scale[1] <= 1:
            raise RecipeError(f"data.crop.scale: {list(scale)} is not a range inside (0, 1]")
        if not 0 < ratio[0] <= ratio[1]:
            raise RecipeError(f"data.crop.ratio: {list(ratio)} is not a range of positive numbers")
        if not 0 <= flip <= 1:
            raise RecipeError(f"data.crop.flip: {flip} is no probability")
        self.size = size
        self.scale = scale
        self.ratio = ratio
        self.flip = flip
        self.filter = FILTERS[interpolation]

    def __call__(self, image: Image.Image, draws: Draws) -> NDArray[np.uint8]:
        """Return pixels of shape (size, size, 3)."""
        box = self.box(image.width, image.height, draws)
        flip = draws.uniform() < self.flip
        pixels = np.asarray(image.resize((self.size, self.size), self.filter, box=box))
        return pixels[:, ::-1] if flip else pixels

    def box(self, width: int, height: int, draws: Draws) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of a random box in an image of the given size."""
        for _ in range(TRIES):
            area = width * height * draws.uniform(*self.scale)
            ratio = math.exp(draws.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < box_width <= width and 0 < box_height <= height:
                left, top = draws.integer(width - box_width + 1), draws.integer(height - box_height + 1)
                return left, top, left + box_width, top + box_height
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        box_width, box_height = min(width, round(height * ratio)), min(height, round(width / ratio))
        left, top = (width - box_width) // 2, (height - box_height) // 2
        return left, top, left + max(box_width, 1), top + max(box_height, 1)
