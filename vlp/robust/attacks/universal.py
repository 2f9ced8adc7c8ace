"""One change for all images, learned by signed gradients."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.attacks.ball import ANYTHING, signed_step
from vlp.attacks.pgd import gradient_of
from vlp.ground.ranges import Count, Positive
from vlp.robust.attacks.base import Radii, attacks
from vlp.robust.learned_change import LearnedChange
from vlp.robust.learning_pairs import LearningPairs
from vlp.robust.malicious_contrast import malicious_contrast
from vlp.robust.stage import Stage


@attacks.register("universal")
class Universal(LearnedChange):
    """Add one and the same change to every image, learned on the pairs of another data set by signed gradients.

    The malicious contrast of Fang et al. 2024 (arXiv:2406.05491) without their generator, in the stochastic ascent of
    Shafahi et al. 2020 (arXiv:1811.11304). The sum is kept within [0, 1], also while it is learned.

    Args:
        card: Name of a card under `data/`, or a YAML file: what it is learned from.
        radii: In steps of 8-bit colours.
        pairs: How many pairs of the data set are used, at most.
        epochs: How often each is seen.
        batch_size: Pairs per step.
        step: Of the change, at each gradient, as a share of the radius.
        seed: Of the order of the pairs.
    """

    def __init__(
        self,
        *,
        card: str,
        radii: Radii = (12.0,),
        pairs: Count = 512,
        epochs: Count = 5,
        batch_size: Count = 16,
        step: Positive = 0.1,
        seed: int = 0,
    ):
        super().__init__(card, radii, pairs)
        self.epochs, self.batch_size, self.step, self.seed = epochs, batch_size, step, seed

    def learn(self, stage: Stage, pairs: LearningPairs, radius: float) -> Float32[Tensor, "1 3 h w"]:
        """Return the change."""
        change = torch.zeros_like(pairs.pixels[:1]).to(stage.shared.device)
        for places, others in pairs.batches(min(self.batch_size, len(pairs)), self.epochs, self.seed, stage.title):
            pixels = pairs.pixels[places].to(change.device)
            clean, own, far = pairs.images[places], pairs.texts[places], pairs.texts[others]

            def gain(moved: Tensor, pixels: Tensor = pixels, fixed: tuple[Tensor, ...] = (clean, own, far)) -> Tensor:
                return -malicious_contrast(stage.encoder.embed_pixels((pixels + moved).clamp(0, 1)), *fixed)

            step = self.step * radius
            change = signed_step(
                change, gradient_of(gain, change), step, torch.zeros_like(change), radius, bounds=ANYTHING
            )
        return change
