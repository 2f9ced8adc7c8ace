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
    is fine-tuned. The authors sum over the batch with weight 0.005: a mean needs the weight 0.005 * batch size. Wrong
    captions have no teacher here. To a teacher of another width the way is a learned linear map, as in CLIP-KD, Yang et
    al. 2023 (arXiv:2307.12732), here one for both modalities.

    Formula: mean_i |x_i - teacher x_i|^2 + |y_i - teacher y_i|^2; of another width: W x_i / |W x_i|, W y_i / |W y_i|
    """

    needs = frozenset({"teacher"})
    discriminates = False

    def __init__(self) -> None:
        super().__init__()
        self.space = TeacherSpace()

    def fit_teacher(self, embed_dim: int, teacher_dim: int, /) -> None:
        self.space.fit(embed_dim, teacher_dim)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        image, text = pairs.teacher("image"), pairs.teacher("text")
        assert image is not None, "the objective checks what terms need"
        assert text is not None, "the objective checks what terms need"
        gaps = [self.space(pairs, own) - theirs for own, theirs in ((pairs.image, image), (pairs.text, text))]
        return pairs.mean((gaps[0].square() + gaps[1].square()).sum(dim=1))
