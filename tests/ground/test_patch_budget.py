"""How large images are that keep their aspect ratio, and how their patches lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

from vlp.ground.patch_budget import PatchBudget


def test_sizes_are_those_of_transformers():
    numbers = np.random.default_rng(0)
    sides = np.exp(numbers.uniform(0, math.log(12_000), (4_000, 2))).astype(int)
    for (height, width), patch, most in zip(
        sides.tolist(), numbers.choice([14, 16, 32], 4_000), numbers.choice([1, 64, 255, 256, 1024], 4_000), strict=True
    ):
        rows, columns = PatchBudget(int(patch), int(most)).grid(height, width)
        expected = get_image_size_for_max_num_patches(height, width, int(patch), int(most))
        assert (rows * patch, columns * patch) == expected


def largest(height, width, most):
    """Return the largest grid whose sides are multiples of an image's, rounded up, in whole numbers."""
    by_rows = [(k / height, k, -(-k * width // height)) for k in range(1, most + 1)]
    by_columns = [(k / width, -(-k * height // width), k) for k in range(1, most + 1)]
    return max(one for one in by_rows + by_columns if one[1] * one[2] <= most)[1:]


@pytest.mark.parametrize("most", [1, 16, 100, 256])
def test_nothing_larger_fits(most):
    numbers = np.random.default_rng(1)
    for height, width in numbers.integers(50, 1200, (200, 2)).tolist():
        assert PatchBudget(16, most).grid(height, width) == largest(height, width, most)


def test_patches_lie_row_by_row_and_zeros_behind_them():
    budget = PatchBudget(2, 8)
    image = np.arange(1, 4 * 6 * 3 + 1, dtype=np.uint8).reshape(4, 6, 3)
    packed = budget.pack(image).reshape(8, 2, 2, 3)
    for place in range(6):
        row, column = divmod(place, 3)
        assert (packed[place] == image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]).all()
    assert not packed[6:].any()
    assert budget.square == 4
