"""One change for all images, made by a network that is trained for it."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.ground.ranges import Count, Positive
from vlp.robust.attacks.base import Radii, attacks
from vlp.robust.learned_change import LearnedChange
from vlp.robust.learning_pairs import LearningPairs
from vlp.robust.malicious_contrast import malicious_contrast, scaled_copies
from vlp.robust.perturbation_generator import PerturbationGenerator
from vlp.robust.stage import Stage

BETAS = (0.5, 0.999)


@attacks.register("cpgc_image")
class CpgcImage(LearnedChange):
    """Add one and the same change to every image, made by a generator that sees captions: C-PGC.

    Fang et al. 2024 (arXiv:2406.05491), after the authors' code but for two things: the changed image is kept within
    [0, 1] while the generator learns, and what it learns from is one caption per image. The change is what comes out
    at the last step.

    Args:
        card: Name of a card under `data/`, or a YAML file: what is learned from.
        radii: In steps of 8-bit colours.
        pairs: How many pairs of the data set are used, at most.
        epochs: How often each is seen.
        batch_size: Pairs per step; each is shown at every scale.
        scales: Of the copies beside the image itself.
        learning_rate: Of Adam.
        width: Channels of the generator's widest map.
        seed: Of weights, noise and order.
    """

    def __init__(
        self,
        *,
        card: str,
        radii: Radii = (12.0,),
        pairs: Count = 512,
        epochs: Count = 40,
        batch_size: Count = 4,
        scales: tuple[float, ...] = (0.5, 0.75, 1.25, 1.5),
        learning_rate: Positive = 2e-4,
        width: Count = 1024,
        seed: int = 0,
    ):
        super().__init__(card, radii, pairs)
        self.epochs, self.batch_size, self.scales = epochs, batch_size, scales
        self.learning_rate, self.width, self.seed = learning_rate, width, seed

    def learn(self, stage: Stage, pairs: LearningPairs, radius: float) -> Float32[Tensor, "1 3 h w"]:
        """Return the change that the generator makes in the end."""
        device, size = stage.shared.device, min(self.batch_size, len(pairs))
        num_copies = 1 + len(self.scales)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            made = PerturbationGenerator(
                condition_dim=pairs.texts.shape[1],
                batch_size=size * num_copies,
                side=3,
                channels=3,
                width=self.width,
            ).to(device)
        optimizer = torch.optim.Adam(made.parameters(), lr=self.learning_rate, betas=BETAS)
        draws = torch.Generator().manual_seed(self.seed)
        change = torch.zeros_like(pairs.pixels[:1]).to(device)
        for places, others in pairs.batches(size, self.epochs, self.seed, stage.title):
            noise = radius * (2 * torch.rand(pairs.pixels[places].shape, generator=draws) - 1)
            pixels = (pairs.pixels[places] + noise).clamp(0, 1).to(device)
            change = self._cut(made(pairs.texts[places].repeat(num_copies, 1)), pixels, radius)
            loss = torch.zeros((), device=device)
            for copy in scaled_copies(pixels, self.scales, draws):
                moved = stage.encoder.embed_pixels((copy + change).clamp(0, 1))
                with torch.no_grad():
                    clean = stage.encoder.embed_pixels(copy)
                loss = loss + malicious_contrast(moved, clean, pairs.texts[places], pairs.texts[others])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return change.detach()

    def _cut(self, made: Float32[Tensor, "1 3 h w"], pixels: Tensor, radius: float) -> Float32[Tensor, "1 3 h w"]:
        resized = torch.nn.functional.interpolate(made, pixels.shape[2:], mode="bilinear")
        return resized.clamp(-radius, radius)
