"""Train the end of both towers."""

from __future__ import annotations

from open_clip import CustomTextCLIP
from pydantic import NonNegativeInt

from vlp.towers.tuning.base import Tuning, keep_training, towers_of, tunings


@tunings.register("last_blocks")
class LastBlocks(Tuning):
    """Train the last blocks of each tower, and what stands behind them; what lies before needs no backward pass.

    Args:
        image: How many blocks of the image tower train, 0 for what stands behind them alone, null for nothing; those
            of a convolutional tower are its stages.
        text: The same of the text tower.
    """

    def __init__(self, *, image: NonNegativeInt | None = 2, text: NonNegativeInt | None = 2):
        self.counts = {"image": image, "text": text}

    def apply(self, core: CustomTextCLIP) -> None:
        """Lock what lies before those blocks."""
        for side, tower in towers_of(core):
            count = self.counts[side]
            keep_training(tower, lambda behind, count=count: count is not None and behind <= count)  # type: ignore[misc]
