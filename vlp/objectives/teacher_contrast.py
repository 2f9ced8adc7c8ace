"""Softmax contrast whose positives come from a teacher."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.pairs import LSE, Pairs, Stats


@terms.register("teacher_contrast")
class TeacherContrastTerm(Term):
    """Pull each sample to the teacher's embedding of its partner, and push it from the student's embeddings of others.

    The negative-student positive-teacher loss of Cappellazzo et al. 2023 (arXiv:2310.02699), there on
    replayed samples of earlier tasks, here on all pairs. For training on new data what must not be forgotten, with a
    constant teacher (strategies.dual_teacher with decay 1).

    Formula: mean_i log(exp(z'_i) + sum_{j != i} exp(z_ij)) - z'_i, z'_i = scale x_i.(teacher y_i); texts likewise
    """

    needs = frozenset({"teacher"})
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")
    requests = {"image_text": (rows, columns)}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        images = _miss(pairs, pairs.image, pairs.teacher("text"), stats["image_text", self.rows])
        texts = _miss(pairs, pairs.text, pairs.teacher("image"), stats["image_text", self.columns])
        return pairs.mean((images + texts) / 2)


def _miss(
    pairs: Pairs, anchor: Float[Tensor, "n d"], partner: Float[Tensor, "n d"] | None, wrong: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    assert partner is not None, "the objective checks what terms need"
    excess = wrong - pairs.scale * (anchor * partner).sum(dim=1)
    return torch.logaddexp(excess, torch.zeros_like(excess))
