"""Whole images at the end of a training that leaves patches out."""

from __future__ import annotations

from vlp.ground.types import Batch, RecipeError
from vlp.strategies.base import strategies
from vlp.strategies.first_steps import FirstSteps
from vlp.towers.dual import DualEncoder
from vlp.towers.patch_masks import Mask, masks_of


@strategies.register("unmasked_end")
class UnmaskedEnd(FirstSteps):
    """Stop to leave patches out after some steps, so that the tower gets used to whole images.

    FLIP, Li et al. 2023, "unmasked tuning" (arXiv:2212.00794), within one run; its share of a long training is small,
    about a hundredth. Needs `model.image.patch_dropout` (of timm's towers `patch_drop`).

    Args:
        steps: How many steps leave patches out.
    """

    changes_captions = False

    def __init__(self, *, steps: int):
        super().__init__(steps=steps)
        self._masks: list[Mask] = []

    def start(self, model: DualEncoder) -> None:
        self._masks = masks_of(model.core.visual)
        if not self._masks:
            raise RecipeError(
                "strategies.unmasked_end: the image tower leaves no patches out: set model.image.patch_dropout (of "
                "timm's towers model.image.patch_drop), or leave unmasked_end out"
            )

    def before_forward(self, batch: Batch) -> Batch:
        if self.is_over():
            for mask in self._masks:
                mask.prob = 0.0
        return batch
