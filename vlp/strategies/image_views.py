"""Further views of each image, changed anew on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from vlp.ground.types import Batch
from vlp.strategies.base import Strategy, strategies

GOLDEN_RATIO = 0.6180339887498949  # multiples modulo 1 are spread evenly


@strategies.register("image_views")
class ImageViews(Strategy):
    """Show each image several times, each with other random changes (`data.augment`), to terms that read all views.

    Every view has the crop of the first; each costs a pass of the image tower.

    Args:
        num_views: Views of each image, the first included.

    Raises:
        ValueError: Fewer than two views.
    """

    makes_views = True
    changes_captions = False

    def __init__(self, *, num_views: int = 2):
        if num_views < 2:
            raise ValueError(f"num_views {num_views} must be at least 2: leave the strategy out for one view")
        self.num_views = num_views

    def before_forward(self, batch: Batch) -> Batch:
        draws = [turned(batch.draws[0], view) for view in range(1, self.num_views)]
        again = batch.images[:1].expand(self.num_views - 1, *batch.images.shape[1:])
        return batch.with_views(again, torch.stack(draws))


def turned(draws: Tensor, view: int) -> Tensor:
    """Return other random numbers that follow from `draws`: the columns change places, the values turn around 1."""
    return (draws.roll(view, dims=1) + view * GOLDEN_RATIO) % 1
