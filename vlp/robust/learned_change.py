"""One change for all images, learned once on the pairs of another data set."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float32
from torch import Tensor

from vlp.attacks.ball import PIXEL_STEP
from vlp.ground import dist
from vlp.robust.attacks.base import Attack
from vlp.robust.findings import Found, Outcome
from vlp.robust.learning_pairs import LearningPairs, read_pairs
from vlp.robust.stage import Stage


class LearnedChange(Attack, ABC):
    """Adds one and the same change to every image, and keeps the sums within [0, 1].

    Args:
        card: What it is learned from.
        radii: In steps of 8-bit colours; each has a change of its own.
        pairs: How many pairs of the data set are used, at most.
    """

    def __init__(self, card: str, radii: tuple[float, ...], pairs: int):
        self.card, self.radii, self.pairs = card, radii, pairs
        self._learned: dict[float, Tensor] = {}

    @abstractmethod
    def learn(self, stage: Stage, pairs: LearningPairs, radius: float) -> Float32[Tensor, "1 3 h w"]:
        """Return the change.

        Args:
            radius: In the unit of the pixels.
        """

    def change(self, stage: Stage, radius: float) -> Outcome:
        if radius not in self._learned:
            pairs = read_pairs(stage, self.card, self.pairs)
            with dist.together():
                change = self.learn(stage, pairs, radius * PIXEL_STEP).cpu()
            self._learned[radius] = dist.broadcast_object(change)
        change = self._learned[radius].to(stage.shared.device)
        return stage.change_images(lambda _problem, pixels, _radius, _ids: Found((pixels + change).clamp(0, 1)), radius)
