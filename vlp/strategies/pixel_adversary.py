"""Training images that an adversary has changed, within a ball around each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from vlp.attacks.ball import PIXEL_STEP, random_start
from vlp.attacks.pgd import Loss, pgd
from vlp.ground.draws import pick, uniform
from vlp.ground.types import Batch, Embeddings, Reading
from vlp.strategies.first_steps import TakenSteps
from vlp.strategies.norm_apart import NormApart
from vlp.strategies.second_pass import SecondPass
from vlp.strategies.trained_tower import check_trains
from vlp.towers.dual import DualEncoder
from vlp.towers.plain_pixels import normalised, plain

BITS = 24  # of a draw
START, CHOICE = range(2)  # what a sample's own random numbers decide


class PixelAdversary(TakenSteps, ABC):
    """Shows each image as an adversary has changed it, beside the image itself or in its place.

    Pixels move in [0, 1], after all augmentation and before normalisation, by signed gradients of the image tower in
    evaluation mode; its parameters get none there. What comes out follows from seed, epoch and sample. Each step of the
    attack costs a pass of the image tower and back, and so does a changed image that stands beside the clean one. To
    terms that read all views of a batch it is a further view of the clean image.

    Args:
        epsilon: Largest change of a colour, in 255ths.
        step_size: Change of every colour at a step, in 255ths; null is 1.25 * epsilon (Wong et al. 2020,
            arXiv:2001.03994), or 2.5 * epsilon / steps where that is less (Madry et al. 2018, arXiv:1706.06083).
        steps: Signed steps; 1 is the fast gradient sign method.
        start: Where they begin: drawn evenly from a ball of this share of epsilon; 0 is the image itself.
        probability: Share of the samples that are attacked; the others stay as they are.
        first_step: Steps of the training that come before the first attack.
        last_step: Steps of the training after which there are no more; null is the end.
        warmup_steps: Steps of the training in which epsilon grows to its value.
        clean_weight: Weight of the objective on clean images; 0 leaves them out.
        adversarial_weight: Weight of the objective on changed images; 0 leaves them to terms that read further views.

    Raises:
        ValueError: A number out of its range.
    """

    changes_captions = False

    def __init__(
        self,
        *,
        epsilon: float,
        step_size: float | None,
        steps: int,
        start: float,
        probability: float,
        first_step: int,
        last_step: int | None,
        warmup_steps: int,
        clean_weight: float,
        adversarial_weight: float,
    ):
        if epsilon <= 0 or steps < 1 or (step_size is not None and step_size <= 0):
            raise ValueError(f"epsilon {epsilon}, steps {steps} and step_size {step_size} must be positive")
        if not 0 <= start <= 1 or not 0 < probability <= 1:
            raise ValueError(f"start {start} must lie in [0, 1], probability {probability} in (0, 1]")
        if first_step < 0 or warmup_steps < 0 or (last_step is not None and last_step <= first_step):
            raise ValueError(
                f"first_step {first_step} must come before last_step {last_step}, and neither they nor warmup_steps "
                f"{warmup_steps} below 0"
            )
        if min(clean_weight, adversarial_weight) < 0 or clean_weight == adversarial_weight == 0:
            raise ValueError(f"clean_weight {clean_weight} and adversarial_weight {adversarial_weight} say nothing")
        super().__init__()
        self.radius = epsilon * PIXEL_STEP
        self.step = min(1.25, 2.5 / steps) * self.radius if step_size is None else step_size * PIXEL_STEP
        self.steps, self.start_share, self.probability = steps, start, probability
        self.first_step, self.last_step, self.warmup_steps = first_step, last_step, warmup_steps
        self.clean_weight, self.adversarial_weight = clean_weight, adversarial_weight
        self.makes_views = adversarial_weight == 0
        self._model: DualEncoder | None = None
        self._norms = NormApart(nn.Identity())
        self._attacks = False
        self._changed = SecondPass()

    @property
    def model(self) -> DualEncoder:
        """The towers that are attacked."""
        assert self._model is not None, "start() comes first"
        return self._model

    @abstractmethod
    def loss_for(self, images: Float32[Tensor, "n 3 h w"], batch: Batch) -> Loss:
        """Return what the attack on these normalised images raises, from embeddings of what they became."""

    def start(self, model: DualEncoder) -> None:
        check_trains(model, "image")
        self._model = model
        self._norms = NormApart(model.core.visual)

    def before_forward(self, batch: Batch) -> Batch:
        self._changed.forget()
        over = self.last_step is not None and self.reached(self.last_step)
        self._attacks = self.reached(self.first_step) and not over
        self._norms.share = 0.0
        return batch

    def before_towers(self, images: Float32[Tensor, "v n 3 h w"], batch: Batch) -> Float32[Tensor, "w n 3 h w"]:
        if not self._attacks:
            return images
        changed = self._changed(batch, lambda: self.change(images[0], batch))
        if self.clean_weight == 0:
            return torch.cat([changed[None], images[1:]])
        self._norms.share = 1 / (len(images) + 1)
        return torch.cat([images, changed[None]])

    def change(self, images: Float32[Tensor, "n 3 h w"], batch: Batch) -> Float32[Tensor, "n 3 h w"]:
        """Attack normalised images; those that are spared come back bit for bit."""
        prepared, keys, radius = self.model.preprocess_cfg, keys_of(batch.draws[0]), self.radius_now()
        pixels = plain(images, prepared)
        loss = self.loss_for(images, batch)
        with self.model.at_rest():
            found = pgd(
                lambda values: loss(self.model.embed_images(normalised(values, prepared))),
                pixels,
                radius=radius,
                step=radius * (self.step / self.radius),
                num_steps=self.steps,
                start=random_start(pixels, radius * self.start_share, keys, seed=START),
            )
        attacked = uniform(keys, 0, CHOICE, 1) < self.probability
        return torch.where(attacked[:, :, None, None], normalised(found, prepared), images)

    def radius_now(self) -> float | Float[Tensor, ""]:
        """Return the largest change of a colour at this step; on the device, which is not waited for."""
        if self.warmup_steps == 0:
            return self.radius
        done = (self.num_steps - self.first_step + 1) / self.warmup_steps
        return self.radius * done.clamp(max=1)

    def readings(self, embeddings: Embeddings) -> tuple[Reading, ...]:
        if not self._attacks:
            return (Reading(embeddings),)
        if self.clean_weight == 0:
            return (Reading(embeddings, self.adversarial_weight),)
        last = len(embeddings.image_views)
        others = range(1, last)
        clean = Reading(embeddings.with_images((0, last, *others)), self.clean_weight)
        if self.adversarial_weight == 0:
            return (clean,)
        return clean, Reading(embeddings.with_images((last, *others)), self.adversarial_weight)

    def gauges(self, model: DualEncoder) -> Mapping[str, float]:
        return {"epsilon": float(self.radius_now()) / PIXEL_STEP if self._attacks else 0.0}


def keys_of(draws: Float32[Tensor, "n k"]) -> Int64[Tensor, " n"]:
    """Return a number for each sample that follows from its draws."""
    return (pick(draws[:, -2], 2**BITS) << BITS) + pick(draws[:, -1], 2**BITS)
