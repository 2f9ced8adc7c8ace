"""Which places of two crops of a picture are the same."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor


def same_place(
    first: Float32[Tensor, "n 5"], second: Float32[Tensor, "n 5"], shape: tuple[int, int], reach: float
) -> Bool[Tensor, "n p q"]:
    """Return which places of a map of one crop are which of another's, row by row; mirrored crops are put right.

    Xie et al. 2021, equation 1 (arXiv:2011.10043); their code takes the larger diagonal.

    Args:
        first: Left, top, right and bottom in pixels of the picture, and 1 where the crop is mirrored, else 0.
        shape: Rows and columns of the maps.
        reach: Largest distance of two centres, in diagonals of the larger of both bins.
    """
    centres, diagonals = zip(*(_bins(cut, shape) for cut in (first, second)), strict=True)
    distances = (centres[0][:, :, None] - centres[1][:, None]).norm(dim=3)
    return distances < reach * torch.maximum(*diagonals)[:, None, None]


def _bins(cut: Float32[Tensor, "n 5"], shape: tuple[int, int]) -> tuple[Float[Tensor, "n p 2"], Float[Tensor, " n"]]:
    """Return the centres of a crop's bins in the picture, down and across, and the length of their diagonals."""
    left, top, right, bottom, mirrored = cut.unbind(dim=1)
    rows, columns = ((torch.arange(count, device=cut.device) + 0.5) / count for count in shape)
    height, width = bottom - top, right - left
    across = columns + mirrored[:, None] * (1 - 2 * columns)
    down = top[:, None] + height[:, None] * rows
    along = left[:, None] + width[:, None] * across
    centres = torch.stack(torch.broadcast_tensors(down[:, :, None], along[:, None, :]), dim=3)
    return centres.flatten(1, 2), torch.hypot(height / shape[0], width / shape[1])
