"""Smaller images at first: more of them in the same time."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from vlp.ground.types import Batch, RecipeError
from vlp.strategies.base import Strategy, strategies
from vlp.towers.dual import DualEncoder


@strategies.register("small_first")
class SmallFirst(Strategy):
    """Shrink the images of the first steps, then train on them in full (progressive resizing).

    Tan and Le 2021, section 4 (arXiv:2104.00298). For towers that take any size: convolutional ones. A convolutional
    tower at two thirds of the side length takes less than half of the time.

    Args:
        image_size: Side of the first images in pixels.
        steps: How many steps see them.
    """

    def __init__(self, *, image_size: int, steps: int):
        self.image_size = image_size
        self.steps = steps
        self.num_steps = torch.zeros((), dtype=torch.int64)
        self._most_steps = 0  # that may have been taken; known without asking the device
        self._is_over = False

    @torch.no_grad()
    def start(self, model: DualEncoder) -> None:
        training = model.training
        device = next(model.parameters()).device
        try:
            model.eval().embed_images(torch.zeros(1, 3, self.image_size, self.image_size, device=device))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise RecipeError(
                f"strategies.small_first.image_size: the image tower does not take {self.image_size} px, only its own "
                f"size: use a convolutional tower, or leave small_first out ({error})"
            ) from error
        finally:
            model.train(training)

    def before_forward(self, batch: Batch) -> Batch:
        if self._ends():
            return batch
        channels_first = batch.images.movedim(-1, -3)
        small = resize(channels_first, [self.image_size, self.image_size], antialias=True)
        return replace(batch, images=small.movedim(-3, -1))

    def _ends(self) -> bool:
        """Whether enough steps were taken; waits for the device once, and once more for each that was skipped."""
        if not self._is_over and self._most_steps >= self.steps:
            self._most_steps = int(self.num_steps)
            self._is_over = self._most_steps >= self.steps
        return self._is_over

    def after_step(self, _model: DualEncoder, taken: Bool[Tensor, ""] | None = None) -> None:
        self._most_steps += 1
        self.num_steps = self.num_steps + (1 if taken is None else taken.long())

    def state_dict(self) -> dict[str, Tensor]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.num_steps.copy_(state["num_steps"])
        self._most_steps, self._is_over = int(self.num_steps), False
