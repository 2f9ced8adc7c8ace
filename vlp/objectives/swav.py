"""Prototypes that both modalities share: each predicts the other's assignment."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.negative_sums import NOTHING
from vlp.objectives.shared.queue import IMAGES, TEXTS, FeatureQueue
from vlp.pairs import Pairs, Stats


@terms.register("swav")
class SwavTerm(Term):
    """Predict from each image which learned prototypes its text was assigned to, and the other way round.

    Caron et al. 2020 (arXiv:2006.09882); between image and text it is SwALIP-v1 of Fini et al. 2023 (arXiv:2305.08675).
    Assignments give every prototype the same share of the batch, by Sinkhorn. A companion of a contrastive term; a
    batch much smaller than the number of prototypes assigns poorly without a queue. Mean over all pairs of views of
    which one may be a target.

    Formula: mean_i - sum_k Q_ik log softmax_k(x_i.c_k / temperature) in both directions, Q_ik = exp(y_i.c_k / sharpness
    + u_i + v_k) without gradient, with prototypes of equal mass over batch and queue, then samples that sum to one

    Args:
        num_prototypes: Unit vectors that are learned.
        temperature: Of the prediction.
        sharpness: Temperature of the assignments.
        num_iterations: Of Sinkhorn.
        frozen_steps: First steps in which prototypes do not turn (SwAV: 313, SwALIP-v1: 100).
        full_crops: Image views, counted from the first, that make targets: small crops see too little for that (SwAV: 2
            of 8); null takes all.
        queue: Embeddings of each modality from the last batches beside which views are assigned (SwAV: 3840 for a
            batch of 256); 0 keeps none.
        queue_first_step: Assign beside them from this step on; earlier embeddings change too fast (SwAV: 15 epochs).

    Raises:
        ValueError: A setting is not positive, a negative `frozen_steps`, `queue` or `queue_first_step`, or the last
            without a queue.
    """

    gradient_is_slope = False
    discriminates = False
    reads_views = True

    def __init__(
        self,
        *,
        num_prototypes: int = 3000,
        temperature: float = 0.1,
        sharpness: float = 0.05,
        num_iterations: int = 3,
        frozen_steps: int = 100,
        full_crops: int | None = None,
        queue: int = 0,
        queue_first_step: int = 0,
    ):
        super().__init__()
        if min(num_prototypes, temperature, sharpness, num_iterations) <= 0 or frozen_steps < 0:
            raise ValueError(
                "num_prototypes, temperature, sharpness, num_iterations must be positive, frozen_steps 0 up"
            )
        if (full_crops is not None and full_crops < 1) or min(queue, queue_first_step) < 0:
            raise ValueError("full_crops must be at least 1, queue and queue_first_step 0 up")
        if queue_first_step and not queue:
            raise ValueError("queue_first_step has no effect without a queue: set one, or leave it out")
        self.full_crops = full_crops
        self.queue = FeatureQueue(queue) if queue else None
        self.queue_first_step = queue_first_step
        self.num_prototypes = num_prototypes
        self.temperature = temperature
        self.sharpness = sharpness
        self.num_iterations = num_iterations
        self.frozen_steps = frozen_steps

    def create(self, embed_dim: int, /) -> None:
        self.prototypes = nn.Parameter(torch.randn(self.num_prototypes, embed_dim))
        if self.queue is not None:
            self.queue.create(embed_dim)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        prototypes = self._unit_prototypes(pairs)
        images, texts = (
            [self._score(pairs, n, prototypes) for n in names] for names in (pairs.image_names, pairs.text_names)
        )
        kept = [self._kept(pairs, modality, prototypes) for modality in (IMAGES, TEXTS)]
        image_targets, text_targets = (
            [self._assign(pairs, view, old) for view in views]
            for views, old in ((images[: self.full_crops], kept[0]), (texts, kept[1]))
        )
        if self.queue is not None:
            self.queue.push(pairs)
        losses = [self._miss(view, target) for view in images for target in text_targets]
        losses += [self._miss(view, target) for view in texts for target in image_targets]
        return pairs.mean(torch.stack(losses).mean(dim=0))

    def _unit_prototypes(self, pairs: Pairs) -> Float[Tensor, "k d"]:
        prototypes = functional.normalize(self.prototypes, dim=1)
        if pairs.step >= self.frozen_steps:
            return prototypes
        # a gradient of zero, not none: what reads the gradients of a step finds the same parameters in every step
        return prototypes.detach() + 0 * prototypes

    def _score(self, pairs: Pairs, name: str, prototypes: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
        return pairs.view(name).to(prototypes.dtype) @ prototypes.T

    def _assign(self, pairs: Pairs, cosines: Float[Tensor, "n k"], kept: Tensor | None) -> Float[Tensor, "n k"]:
        return assign(pairs, cosines.detach() / self.sharpness, self.num_iterations, kept)

    @torch.no_grad()
    def _kept(self, pairs: Pairs, modality: int, prototypes: Float[Tensor, "k d"]) -> Float[Tensor, "q k"] | None:
        """Return the logits of what is queued, as for assignments; `NOTHING` where a place is empty."""
        if self.queue is None or pairs.step < self.queue_first_step:
            return None
        logits = self.queue.of(modality, prototypes.dtype) @ prototypes.T / self.sharpness
        return logits.masked_fill(~self.queue.is_filled[:, None], NOTHING)

    def _miss(self, cosines: Float[Tensor, "n k"], targets: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        return -(targets * (cosines / self.temperature).log_softmax(dim=1)).sum(dim=1)


@torch.no_grad()
def assign(
    pairs: Pairs, logits: Float[Tensor, "n k"], num_iterations: int, kept: Float[Tensor, "q k"] | None = None
) -> Float[Tensor, "n k"]:
    """Return shares of this process's samples in the prototypes, after Sinkhorn over the whole batch in logarithms.

    The shares of a sample sum to one, those of a prototype tend to batch size / prototypes.

    Args:
        kept: Logits of samples that every process has, and that share the prototypes with the batch.
    """
    nobody = None if kept is None else (kept <= NOTHING / 2).all(dim=1, keepdim=True)
    for _ in range(num_iterations):
        everyone = pairs.gather(logits.logsumexp(dim=0)[None]).logsumexp(dim=0)
        if kept is not None and nobody is not None:
            everyone = torch.logaddexp(everyone, kept.logsumexp(dim=0))
            kept = (kept - everyone).log_softmax(dim=1).masked_fill(nobody, NOTHING)
        logits = (logits - everyone).log_softmax(dim=1)
    return logits.exp()
