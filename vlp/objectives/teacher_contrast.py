"""Softmax contrast whose positives come from a teacher."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.teacher_space import TeacherSpace
from vlp.pairs import LSE, Pairs, Stats


@terms.register("teacher_contrast")
class TeacherContrastTerm(Term):
    """Pull each sample to the teacher's embedding of its partner, and push it from the student's embeddings of others.

    The negative-student positive-teacher loss of Cappellazzo et al. 2023 (arXiv:2310.02699), there on replayed samples
    of earlier tasks, which contrast with the whole batch; here on all pairs unless `replayed` says otherwise. For
    training on new data what must not be forgotten, with a constant teacher (strategies.dual_teacher with decay 1). To
    a teacher of another width the way is a learned linear map of both modalities.

    Formula: mean_i log(exp(z'_i) + sum_{j != i} exp(z_ij)) - z'_i, z'_i = scale x_i.(teacher y_i); texts likewise; of
    another width: z'_i = scale (W x_i).(teacher y_i) / |W x_i|; where `replayed`, the mean is over replayed samples i

    Args:
        replayed: Count as anchors only samples that `strategies.replay` names.
    """

    needs = frozenset({"teacher"})
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")
    requests = {"image_text": (rows, columns)}

    def __init__(self, *, replayed: bool = False) -> None:
        super().__init__()
        self.replayed = replayed
        self.needs = self.needs | {"replayed"} if replayed else self.needs
        self.space = TeacherSpace()

    def fit_teacher(self, embed_dim: int, teacher_dim: int, /) -> None:
        self.space.fit(embed_dim, teacher_dim)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        image, text = (self.space(pairs, rows) for rows in (pairs.image, pairs.text))
        images = _miss(pairs, image, pairs.teacher("text"), stats["image_text", self.rows])
        texts = _miss(pairs, text, pairs.teacher("image"), stats["image_text", self.columns])
        losses = (images + texts) / 2
        if not self.replayed:
            return pairs.mean(losses)
        replayed = pairs.embeddings.replayed
        assert replayed is not None, "the objective checks what terms need"
        everyones = pairs.gather(replayed.float()).sum()
        return (losses * replayed).sum() / everyones.clamp(min=1).to(losses.dtype)


def _miss(
    pairs: Pairs, anchor: Float[Tensor, "n r"], partner: Float[Tensor, "n r"] | None, wrong: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    assert partner is not None, "the objective checks what terms need"
    excess = wrong - pairs.scale * (anchor * partner).sum(dim=1)
    return torch.logaddexp(excess, torch.zeros_like(excess))
