"""Train the end of both towers."""

from __future__ import annotations

from open_clip import CustomTextCLIP
from pydantic import NonNegativeInt

from vlp.towers.tuning.base import Tuning, keep_training, towers_of, tunings


@tunings.register("last_blocks")
class LastBlocks(Tuning):
    """Train the last blocks of each tower, and what stands behind them; what lies before needs no backward pass.

    Args:
        image: How many blocks of the image tower train; blocks of a convolutional tower are its stages.
        text: How many blocks of the text tower train.
    """

    def __init__(self, *, image: NonNegativeInt = 2, text: NonNegativeInt = 2):
        self.counts = {"image": image, "text": text}

    def apply(self, core: CustomTextCLIP) -> None:
        """Lock what lies before those blocks."""
        for side, tower in towers_of(core):
            count = self.counts[side]
            keep_training(tower, lambda behind, count=count: behind <= count)  # type: ignore[misc]
