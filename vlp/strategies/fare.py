"""A trained image tower that learns to see changed images as it saw clean ones (FARE)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.attacks.pgd import Loss
from vlp.ground import dist
from vlp.ground.types import Batch, Embeddings, Teacher
from vlp.strategies.base import Augmentation, strategies
from vlp.strategies.dual_teacher import DualTeacher
from vlp.strategies.other_images import OtherImages
from vlp.strategies.pixel_adversary import PixelAdversary
from vlp.towers.dual import DualEncoder

PIECE = 256
"""Images that the model at the start embeds at a time, without a graph, for the contrast of a whole batch."""


@strategies.register("fare")
class Fare(PixelAdversary):
    """Change each image so that its embedding moves away from where the model had it at the start, and train on it.

    Schlarmann et al. 2024, algorithm 1 (arXiv:2402.12336): no text is needed, so that what is learned holds for any.
    The model at the start is frozen and handed to terms as `teacher`: `feature_distillation` is the authors' loss, of
    unit-norm embeddings here, as cosines are all that this package compares. The text tower should be locked. Costs a
    pass of both towers at the start's weights, without a graph, beside those of the attack. With `feature_contrast` and
    `attack: contrast` both sides play for the contrast with the other images of the batch, as in Liu et al. 2025
    (arXiv:2504.10850): one more pass without a graph.

    Args:
        epsilon: Largest change of a colour, in 255ths.
        step_size: Change of every colour at a step, in 255ths.
        steps: Signed steps of the attack. Each costs a pass of the image tower.
        start: Where they begin: drawn evenly from a ball of this share of epsilon; not 0, where all slopes are.
        probability: Share of the samples that are attacked; the others stay as they are.
        first_step: Steps of the training that come before the first attack.
        last_step: Steps of the training after which there are no more attacks; null is the end.
        warmup_steps: Steps of the training in which epsilon grows to its value.
        clean_weight: Weight of the objective on clean images, which the authors leave out; costs a pass of the image
            tower.
        adversarial_weight: Weight of the objective on changed images.
        attack: What the attack raises: the squared `distance` from where the model had the image at the start, or the
            `contrast` of that with where it had the other images of all processes, at the model's scale.

    Raises:
        ValueError: A number out of its range.
    """

    provides = frozenset({"teacher"})

    def __init__(
        self,
        *,
        epsilon: float = 2.0,
        step_size: float = 1.0,
        steps: int = 10,
        start: float = 1.0,
        probability: float = 1.0,
        first_step: int = 0,
        last_step: int | None = None,
        warmup_steps: int = 0,
        clean_weight: float = 0.0,
        adversarial_weight: float = 1.0,
        attack: Literal["distance", "contrast"] = "distance",
    ):
        if not start or not adversarial_weight:
            raise ValueError(f"start {start} and adversarial_weight {adversarial_weight} must be positive")
        super().__init__(
            epsilon=epsilon,
            step_size=step_size,
            steps=steps,
            start=start,
            probability=probability,
            first_step=first_step,
            last_step=last_step,
            warmup_steps=warmup_steps,
            clean_weight=clean_weight,
            adversarial_weight=adversarial_weight,
        )
        self._at_start = DualTeacher(decay=1.0, warmup=False)
        self._said: Teacher | None = None
        self._contrasts = attack == "contrast"
        self._augment: Augmentation | None = None
        self._others: OtherImages | None = None

    def augmented_by(self, augment: Augmentation) -> None:
        self._augment = augment

    def twin_of(self, model: DualEncoder) -> DualEncoder:
        return self._at_start.twin_of(model)

    def start(self, model: DualEncoder) -> None:
        super().start(model)
        self._at_start.start(model)

    def before_forward(self, batch: Batch) -> Batch:
        batch = super().before_forward(batch)
        self._others = self._everyones(batch) if self._contrasts and self._attacks else None
        return batch

    def _everyones(self, batch: Batch) -> OtherImages:
        """Embed this process's share as it will be augmented, and gather those of the others."""
        augment = self._augment
        assert augment is not None, "augmented_by() comes first"
        pieces = [batch.narrow(first, min(PIECE, len(batch) - first)) for first in range(0, len(batch), PIECE)]
        said = torch.cat([self._at_start.teach(augment(piece.images, piece.draws), piece).image for piece in pieces])
        images, ids = (dist.all_gather_rows(rows) for rows in (said.float(), batch.ids))
        return OtherImages(images, ids)

    def before_towers(self, images: Float32[Tensor, "v n 3 h w"], batch: Batch) -> Float32[Tensor, "w n 3 h w"]:
        self._said = self._at_start.teach(images, batch)
        return super().before_towers(images, batch)

    def loss_for(self, images: Float32[Tensor, "n 3 h w"], batch: Batch) -> Loss:
        said, others = self._said, self._others
        assert said is not None, "before_towers() has asked"
        if others is not None:
            # the scale is whole, where parameters are split, once the tower has run
            return lambda embeddings: others.miss(embeddings, said.image, batch.ids, self.model.scale.detach())
        return lambda embeddings: (embeddings - said.image).square().sum(dim=1)

    def after_forward(self, images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        return replace(embeddings, teacher=self._said)

    def weights(self) -> dict[str, Tensor]:
        return self._at_start.weights()

    def gauges(self, model: DualEncoder) -> Mapping[str, float]:
        return {**super().gauges(model), **self._at_start.gauges(model)}
