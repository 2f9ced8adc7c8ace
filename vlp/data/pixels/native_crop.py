"""Random boxes that keep their aspect ratio, packed patch by patch within a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from vlp.data.pixels.crop import FULL_SIZE, MARGIN, Box, Crop, Cut, resized, snap
from vlp.data.pixels.decode import Picture
from vlp.ground.patch_budget import PatchBudget
from vlp.ground.randomness import Draws


@dataclass(frozen=True)
class NativeCrop:
    """Cut a random box and resize it to what a budget of patches covers at the aspect ratio of the box.

    Args:
        crop: Draws the box and the flip; its size has no meaning here.
        budget: How large the result may be.
    """

    crop: Crop
    budget: PatchBudget

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the result."""
        return self.budget.shape

    @property
    def decoding(self) -> str:
        """As for the crop."""
        return self.crop.decoding

    def within(self, most: int) -> NativeCrop:
        """Return the same within another number of patches."""
        return replace(self, budget=replace(self.budget, most=most))

    def draw(self, picture: Picture, draws: Draws) -> Cut:
        """Choose what to take of a picture, by its header alone."""
        box = self.crop.box(picture.width, picture.height, draws)
        flip = draws.uniform() < self.crop.flip
        factor = self._factor(box, picture)
        return Cut(snap(box, factor, picture.width, picture.height), factor, flip)

    def take(self, pixels: NDArray[np.uint8], cut: Cut, factor: int) -> UInt8[NDArray[np.uint8], "l p 3"]:
        """Return a packed image, from the pixels of a picture that was reduced by `factor`."""
        left, top, right, bottom = (side // factor for side in cut.box)
        height, width = self._size(cut.box)
        image = resized(pixels[top:bottom, left:right], height, width, self.crop.interpolation)
        return self.budget.pack(image[:, ::-1] if cut.flip else image)

    def _size(self, box: Box) -> tuple[int, int]:
        rows, columns = self.budget.grid(box[3] - box[1], box[2] - box[0])
        return rows * self.budget.patch, columns * self.budget.patch

    def _factor(self, box: Box, picture: Picture) -> int:
        height, width = self._size(box)
        reserve = min((box[3] - box[1]) / height, (box[2] - box[0]) / width) / MARGIN
        factors = picture.factors if self.decoding == "fast" else FULL_SIZE
        return next(factor for factor in factors if factor == 1 or factor <= reserve)
