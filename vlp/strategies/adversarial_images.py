"""Images that an adversary has moved away from their captions, as further training images."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float32
from torch import Tensor

from vlp.attacks.pgd import Loss
from vlp.ground.types import Batch
from vlp.strategies.anchors import Anchors, embed_anchors
from vlp.strategies.base import strategies
from vlp.strategies.pixel_adversary import PixelAdversary


@strategies.register("adversarial_images")
class AdversarialImages(PixelAdversary):
    """Train on images that were changed so that they look like other captions of the batch, beside the clean ones.

    The attack raises the contrast of each image with the captions of all processes, at the model's scale: what the
    objective lowers, or nearly so, seen from the image. Captions are embedded once for it, without gradient.
    The objective is the sum of that of clean and of changed images, as in CLAE (Ho and Vasconcelos 2020,
    arXiv:2010.12050, one step); with more steps, the inner loop of Ghofrani et al. 2023 (arXiv:2302.02502: 5 of them,
    0.01 each, epsilon 8/255); with `clean_weight: 0` and a locked text tower, TeCoA (Mao et al. 2023, arXiv:2212.07016:
    epsilon 1/255), over the captions of the batch. List it behind strategies that change captions.

    Args:
        epsilon: Largest change of a colour, in 255ths.
        step_size: Change of every colour at a step, in 255ths; null is 1.25 * epsilon, or 2.5 * epsilon / steps where
            that is less.
        steps: Signed steps of the attack; 1 is the fast gradient sign method. Each costs a pass of the image tower.
        start: Where they begin: drawn evenly from a ball of this share of epsilon; 0 is the image itself.
        probability: Share of the samples that are attacked; the others stay as they are.
        first_step: Steps of the training that come before the first attack.
        last_step: Steps of the training after which there are no more attacks; null is the end.
        warmup_steps: Steps of the training in which epsilon grows to its value.
        clean_weight: Weight of the objective on clean images; 0 leaves them out, and saves a pass of the image tower.
        adversarial_weight: Weight of the objective on changed images; 0 leaves them to terms that read further views.
        contrast: What the attack raises: `softmax` contrast, or with the model's bias the `sigmoid` contrast of
            objectives such as `siglip`.

    Raises:
        ValueError: A number out of its range.
    """

    def __init__(
        self,
        *,
        epsilon: float = 4.0,
        step_size: float | None = None,
        steps: int = 1,
        start: float = 1.0,
        probability: float = 1.0,
        first_step: int = 0,
        last_step: int | None = None,
        warmup_steps: int = 0,
        clean_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        contrast: Literal["softmax", "sigmoid"] = "softmax",
    ):
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
        self._is_sigmoid = contrast == "sigmoid"
        self._anchors: Anchors | None = None

    def before_forward(self, batch: Batch) -> Batch:
        batch = super().before_forward(batch)
        self._anchors = embed_anchors(self.model, batch) if self._attacks else None
        return batch

    def loss_for(self, images: Float32[Tensor, "n 3 h w"], batch: Batch) -> Loss:
        anchors = self._anchors
        assert anchors is not None, "before_forward() comes first"
        right = anchors.right(batch)
        raised = anchors.sigmoid_loss if self._is_sigmoid else anchors.miss
        return lambda embeddings: raised(embeddings, right)
