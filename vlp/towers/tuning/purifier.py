"""Train what stands in front of a frozen model."""

from __future__ import annotations

from open_clip import CustomTextCLIP
from pydantic import PositiveInt

from vlp.towers.pixel_autoencoder import PixelAutoencoder, stand_in_front
from vlp.towers.tuning.base import Tuning, tunings


@tunings.register("purifier")
class Purifier(Tuning):
    """Train an auto-encoder of pixels in front of the image tower, and nothing of the model.

    With `strategies.fare` it learns to undo what an adversary has changed, as the model sees it (a robust auto-encoder
    before a frozen model, adapted). It begins as the identity, and on clean images `objective.pixel_change` holds it
    near there. `vlp export` writes the model as it was, and beside it the auto-encoder as a program of torch; a pair of
    ONNX files has it inside.

    Args:
        width: Channels of the auto-encoder at the image's full size.
    """

    def __init__(self, *, width: PositiveInt = 32):
        self.width = width

    def apply(self, core: CustomTextCLIP) -> None:
        """Lock both towers, and put the auto-encoder in front."""
        core.visual.requires_grad_(False)
        core.text.requires_grad_(False)
        stand_in_front(core.visual, PixelAutoencoder(self.width))
