"""Images that keep their aspect ratio: how large they may be, and how their patches lie in a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from numpy.typing import NDArray

SMALLEST_SCALE, LARGEST_SCALE, PRECISION = 1e-6, 100.0, 1e-5  # of transformers, so that both choose the same size


@dataclass(frozen=True)
class PatchBudget:
    """How large an image may be: as large as so many square patches can cover, at the aspect ratio that it has.

    NaFlex of SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786, section 2.4).

    Args:
        patch: Side of a patch in pixels.
        most: Patches of an image, at most.
    """

    patch: int
    most: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a packed image."""
        return self.most * self.patch, self.patch, 3

    @property
    def square(self) -> int:
        """Side in pixels of the largest square image."""
        return math.isqrt(self.most) * self.patch

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches that an image of this size is resized to.

        Each side is rounded up to whole patches, at the largest scale at which they are no more than `most`. It is
        found by halving, to five digits, as `get_image_size_for_max_num_patches` of transformers finds it.
        """
        low, high = SMALLEST_SCALE, LARGEST_SCALE
        while high - low >= PRECISION:
            scale = (low + high) / 2
            if self._patches(height, scale) * self._patches(width, scale) <= self.most:
                low = scale
            else:
                high = scale
        return self._patches(height, low), self._patches(width, low)

    def grids(self, cuts: Sequence[Float32[NDArray[np.float32], "views 5"]]) -> Int64[NDArray[np.int64], "views n 2"]:
        """Return rows and columns of packed images, which follow from what each shows of its picture (`Batch.cuts`)."""
        boxes = np.stack([views[:, :4] for views in cuts], axis=1).astype(np.int64).tolist()
        sizes = [[(bottom - top, right - left) for left, top, right, bottom in view] for view in boxes]
        return np.array([[self.grid(*size) for size in view] for view in sizes], dtype=np.int64)

    def _patches(self, side: int, scale: float) -> int:
        return max(1, math.ceil(side * scale / self.patch))

    def pack(self, image: UInt8[NDArray[np.uint8], "h w 3"]) -> UInt8[NDArray[np.uint8], "l p 3"]:
        """Return the patches of an image, row by row, one below the other; behind them zeros, up to `most` patches.

        Args:
            image: Made of whole patches.
        """
        height, width, _ = image.shape
        rows, columns = height // self.patch, width // self.patch
        parts = image.reshape(rows, self.patch, columns, self.patch, 3).swapaxes(1, 2)
        packed = np.zeros(self.shape, dtype=np.uint8)
        packed[: rows * columns * self.patch] = parts.reshape(-1, self.patch, 3)
        return packed
