"""Each caption against wrong captions made of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.teacher_space import TeacherSpace
from vlp.pairs import Pairs, Stats


@terms.register("text_grounded")
class TextGroundedTerm(Term):
    """Keep each caption near the teacher's embedding of it, and away from the wrong captions made of it.

    The text-grounded contrast of DeGLA, Hu et al. 2025 (arXiv:2504.16801), weight 0.1 there; each caption meets its
    own wrong captions, as the paper says and its released code does not. Teaches the text tower alone. To a teacher of
    another width the way is a learned linear map.

    Formula: mean_i log(exp(scale y_i.t_i) + sum_m exp(scale y_i.y'_im)) - scale y_i.t_i, t_i the teacher's embedding,
    y'_im the wrong captions of sample i; of another width: (W y_i).t_i / |W y_i|

    Args:
        scale: Inverse temperature, not the model's.

    Raises:
        ValueError: `scale` is not positive.
    """

    needs = frozenset({"negatives", "teacher"})
    discriminates = False

    def __init__(self, *, scale: float = 10.0):
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale {scale} must be positive")
        self.scale = scale
        self.space = TeacherSpace()

    def fit_teacher(self, embed_dim: int, teacher_dim: int, /) -> None:
        self.space.fit(embed_dim, teacher_dim)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        negatives, teacher = pairs.embeddings.negatives, pairs.teacher("text")
        assert negatives is not None, "the objective checks what terms need"
        assert teacher is not None, "the objective checks what terms need"
        right = (self.space(pairs, pairs.text) * teacher).sum(dim=1)
        wrong = torch.einsum("nd,nmd->nm", pairs.text, negatives)
        excess = self.scale * (wrong - right[:, None])
        return pairs.mean(torch.logaddexp(excess.logsumexp(dim=1), torch.zeros_like(right)))
