"""Random crops of images that lie on the device."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

NUM_DRAWS = 5
WIDEST = 4 / 3  # of a crop's sides, relative to the image's


def random_crops(
    images: Float[Tensor, "n 3 h w"],
    draws: Float[Tensor, "n 5"],
    *,
    scale: tuple[float, float],
    size: tuple[int, int],
    flip: float,
) -> Float[Tensor, "n 3 height width"]:
    """Cut a rectangle out of each image, perhaps mirror it, and resize it (bilinear, without a filter).

    Args:
        draws: Uniform numbers: area, shape, place from the left and from the top, mirror.
        scale: Smallest and largest share of the area.
        size: Height and width of the crops in pixels.
        flip: Share that is mirrored.
    """
    area = scale[0] + (scale[1] - scale[0]) * draws[:, 0]
    shape = torch.exp((2 * draws[:, 1] - 1) * math.log(WIDEST))
    width, height = (area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1)
    across, down = (1 - width) * (2 * draws[:, 2] - 1), (1 - height) * (2 * draws[:, 3] - 1)  # centres in [-1, 1]
    mirror = torch.where(draws[:, 4] < flip, -1.0, 1.0)
    none = torch.zeros_like(area)
    rows = torch.stack([width * mirror, none, across, none, height, down], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(rows, [len(images), 3, *size], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
