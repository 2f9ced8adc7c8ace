"""Embeddings that stay where a teacher puts them."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import Pairs, Stats


@terms.register("feature_distillation")
class FeatureDistillationTerm(Term):
    """Keep each embedding near the teacher's.

    The self-distillation of DeGLA, Hu et al. 2025 (arXiv:2504.16801), which keeps a model's general knowledge while it
    is fine-tuned. The authors sum over the batch with weight 0.005: a mean needs the weight 0.005 * batch size. Wrong
    captions have no teacher here.

    Formula: mean_i |x_i - teacher x_i|^2 + |y_i - teacher y_i|^2
    """

    needs = frozenset({"teacher"})
    discriminates = False

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        image, text = pairs.teacher("image"), pairs.teacher("text")
        assert image is not None, "the objective checks what terms need"
        assert text is not None, "the objective checks what terms need"
        return pairs.mean(((pairs.image - image).square() + (pairs.text - text).square()).sum(dim=1))
