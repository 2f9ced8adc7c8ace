"""Embeddings that stay where a teacher puts them."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.teacher_space import TeacherSpace
from vlp.pairs import Pairs, Stats


@terms.register("feature_distillation")
class FeatureDistillationTerm(Term):
    """Keep each embedding near the teacher's.

    The self-distillation of DeGLA, Hu et al. 2025 (arXiv:2504.16801), which keeps a model's general knowledge while it
    is fine-tuned: of images, captions, and wrong captions where the teacher reads them. The authors sum over a batch of
    256, with weight 0.005: `weight: 0.005, sum_over: 256`. To a teacher of another width the way is a learned linear
    map, as in CLIP-KD, Yang et al. 2023 (arXiv:2307.12732), here one for both modalities.

    Formula: sum_over mean_i |x_i - teacher x_i|^2 + |y_i - teacher y_i|^2 + sum_m |y'_im - teacher y'_im|^2, y'_im the
    wrong captions of sample i; of another width: W x_i / |W x_i| and so on

    Args:
        sum_over: Pairs over which the loss is a sum, whatever the batch, so that a weight that was fitted to a sum
            over one batch serves any other.

    Raises:
        ValueError: `sum_over` is below 1.
    """

    needs = frozenset({"teacher"})
    discriminates = False

    def __init__(self, *, sum_over: int = 1):
        super().__init__()
        if sum_over < 1:
            raise ValueError(f"sum_over {sum_over} must be at least 1")
        self.sum_over = sum_over
        self.space = TeacherSpace()

    def fit_teacher(self, embed_dim: int, teacher_dim: int, /) -> None:
        self.space.fit(embed_dim, teacher_dim)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        teacher, own = pairs.embeddings.teacher, pairs.embeddings.negatives
        assert teacher is not None, "the objective checks what terms need"
        losses = self._miss(pairs, pairs.image, teacher.image) + self._miss(pairs, pairs.text, teacher.text)
        if own is not None and teacher.negatives is not None:
            missed = self._miss(pairs, own.flatten(0, 1), teacher.negatives.flatten(0, 1))
            losses = losses + missed.unflatten(0, own.shape[:2]).sum(dim=1)
        return self.sum_over * pairs.mean(losses)

    def _miss(self, pairs: Pairs, rows: Float[Tensor, "n d"], taught: Float[Tensor, "n r"]) -> Float[Tensor, " n"]:
        return (self.space(pairs, rows) - taught).square().sum(dim=1)
