"""Images that a teacher would know again among all others."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.teacher_space import TeacherSpace
from vlp.pairs import LSE, Pairs, Stats, at_least_float32, pair_stats


@terms.register("feature_contrast")
class FeatureContrastTerm(Term):
    """Pull each image to where the teacher has it, and push it from where the teacher has the other images.

    The contrast of Liu et al. 2025 (arXiv:2504.10850, adapted), there of what an auto-encoder makes of changed images
    with what the frozen model says of clean ones: with `strategies.fare`, whose `attack: contrast` raises the same. It
    only asks that images stay apart, where `feature_distillation` asks that they stay where they were. To a teacher of
    another width the way is a learned linear map.

    Formula: mean_i log(1 + sum_{j != i} exp(scale x_i.(teacher x_j) - scale x_i.(teacher x_i))); of another width:
    W x_i / |W x_i| in place of x_i
    """

    needs = frozenset({"teacher"})
    discriminates = False
    others = LSE("row", mask="pair")

    def __init__(self) -> None:
        super().__init__()
        self.space = TeacherSpace()

    def fit_teacher(self, embed_dim: int, teacher_dim: int, /) -> None:
        self.space.fit(embed_dim, teacher_dim)

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        taught = pairs.teacher("image")
        assert taught is not None, "the objective checks what terms need"
        seen, taught = self.space(pairs, pairs.image), at_least_float32(taught)
        block = pairs.block_of(pairs.side_of(seen), pairs.side_of(taught))
        wrong = pair_stats({"taught": block}, {"taught": (self.others,)}, pairs.group)["taught", self.others]
        excess = wrong - pairs.scale * (seen * taught).sum(dim=1)
        return pairs.mean(torch.logaddexp(excess, torch.zeros_like(excess)))
