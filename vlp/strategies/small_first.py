"""Smaller images at first: more of them in the same time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torchvision.transforms.v2.functional import resize

from vlp.ground.types import Batch, RecipeError
from vlp.strategies.base import strategies
from vlp.strategies.first_steps import FirstSteps
from vlp.towers.dual import DualEncoder
from vlp.towers.resized_positions import take_any_size


@strategies.register("small_first")
class SmallFirst(FirstSteps):
    """Shrink the images of the first steps, then train on them in full (progressive resizing).

    Tan and Le 2021, section 4 (arXiv:2104.00298); with transformers, CLIPA, Li et al. 2023 (arXiv:2305.07017), which
    goes on in a second run where this is one. Convolutional towers take any size. For the vision transformers of
    open_clip and timm the position embeddings are interpolated at each step on the way in, so that their gradient
    reaches those of the full size; at the full size the tower is what it was. At half the side length a vision
    transformer sees a quarter of the patches, and a convolutional tower takes a quarter of the time.

    Args:
        image_size: Side of the first images in pixels; for transformers a multiple of the patch size.
        steps: How many steps see them.
    """

    changes_captions = False

    def __init__(self, *, image_size: int, steps: int):
        super().__init__(steps=steps)
        if image_size < 1:
            raise ValueError(f"image_size {image_size} must be at least 1")
        self.image_size = image_size

    @torch.no_grad()
    def start(self, model: DualEncoder) -> None:
        if not isinstance(model.image_size, int):
            raise RecipeError(
                "strategies.small_first: its images are square, and model.image.image_size is "
                f"{list(model.image_size)}: leave one of them out"
            )
        device = next(model.parameters()).device
        take_any_size(model.core.visual)
        try:
            with model.at_rest():
                model.embed_images(torch.zeros(1, 3, self.image_size, self.image_size, device=device))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise RecipeError(
                f"strategies.small_first.image_size: the image tower does not take {self.image_size} px: for a vision "
                "transformer of open_clip or timm choose a multiple of its patch size, else use a convolutional tower, "
                f"or leave small_first out ({error})"
            ) from error

    def before_forward(self, batch: Batch) -> Batch:
        if self.is_over():
            return batch
        channels_first = batch.images.movedim(-1, -3)
        small = resize(channels_first, [self.image_size, self.image_size], antialias=True)
        return replace(batch, images=small.movedim(-3, -1))
