"""Prototypes that both modalities share: each predicts the other's assignment."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.pairs import Pairs, Stats


@terms.register("swav")
class SwavTerm(Term):
    """Predict from each image which learned prototypes its text was assigned to, and the other way round.

    Caron et al. 2020 (arXiv:2006.09882); between image and text it is SwALIP-v1 of Fini et al. 2023 (arXiv:2305.08675).
    Assignments give every prototype the same share of the batch, by Sinkhorn. A companion of a contrastive term; a
    batch much smaller than the number of prototypes assigns poorly (no queue). Mean over all pairs of views.

    Formula: mean_i - sum_k Q_ik log softmax_k(x_i.c_k / temperature) in both directions, Q_ik = exp(y_i.c_k / sharpness
    + u_i + v_k) without gradient, with prototypes of equal mass, then samples that sum to one

    Args:
        num_prototypes: Unit vectors that are learned.
        temperature: Of the prediction.
        sharpness: Temperature of the assignments.
        num_iterations: Of Sinkhorn.
        frozen_steps: First steps in which prototypes do not turn (SwAV: 313, SwALIP-v1: 100).

    Raises:
        ValueError: A setting is not positive, or a negative `frozen_steps`.
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
    ):
        super().__init__()
        if min(num_prototypes, temperature, sharpness, num_iterations) <= 0 or frozen_steps < 0:
            raise ValueError(
                "num_prototypes, temperature, sharpness, num_iterations must be positive, frozen_steps 0 up"
            )
        self.num_prototypes = num_prototypes
        self.temperature = temperature
        self.sharpness = sharpness
        self.num_iterations = num_iterations
        self.frozen_steps = frozen_steps

    def create(self, embed_dim: int, /) -> None:
        self.prototypes = nn.Parameter(torch.randn(self.num_prototypes, embed_dim))

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        prototypes = self._unit_prototypes(pairs)
        images, texts = (
            [self._score(pairs, n, prototypes) for n in names] for names in (pairs.image_names, pairs.text_names)
        )
        image_targets, text_targets = ([self._assign(pairs, view) for view in views] for views in (images, texts))
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

    def _assign(self, pairs: Pairs, cosines: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return assign(pairs, cosines.detach() / self.sharpness, self.num_iterations)

    def _miss(self, cosines: Float[Tensor, "n k"], targets: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        return -(targets * (cosines / self.temperature).log_softmax(dim=1)).sum(dim=1)


@torch.no_grad()
def assign(pairs: Pairs, logits: Float[Tensor, "n k"], num_iterations: int) -> Float[Tensor, "n k"]:
    """Return shares of this process's samples in the prototypes, after Sinkhorn over the whole batch in logarithms.

    The shares of a sample sum to one, those of a prototype tend to batch size / prototypes.
    """
    for _ in range(num_iterations):
        everyone = pairs.gather(logits.logsumexp(dim=0)[None]).logsumexp(dim=0)
        logits = (logits - everyone).log_softmax(dim=1)
    return logits.exp()
