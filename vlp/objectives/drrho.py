"""Contrast with the whole data set's negatives, steered by a reference model that knows which of them are hard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import terms
from vlp.objectives.shared.global_contrast import GlobalContrast
from vlp.pairs import LSE, Pairs, Request, Stats, pair_stats


@terms.register("drrho")
class ReferenceContrastTerm(GlobalContrast):
    """Weigh each negative by how much harder it is than for the teacher, and each pair as `sogclr` does.

    DRRho-CLIP, Wei et al. 2025 (arXiv:2505.06699): distributionally robust optimization of the excess of a pair's loss
    over that of a reference model, at one temperature. A negative that the reference finds hard too, such as another
    caption of the same thing, is not pushed for; one that it tells apart is. The reference need not be better than
    what is trained (`strategies.teacher`). The authors train with model.learn_scale=false, a scale of 100, and `gamma`
    of min(1, 4.177 / epochs^0.7265). The value has no meaning of its own.

    Formula: that of sogclr with d_ij in place of z_ij: mean_i [exp(log g_i - log u_i) (lse_{j != i} d_ij - d_ii)] /
    scale in both directions; d_ij = scale (x_i.y_j - r_ij), r_ij the cosine of the teacher's embeddings

    Args:
        gamma: Weight of this batch in the average u.
        gamma_steps: Let gamma fall from 1 to its value in so many steps, along half a cosine.
        budget: As of `sogclr`, to learn the temperature.

    Raises:
        ValueError: `gamma` outside (0, 1], or a negative `gamma_steps` or `budget`.
    """

    needs = frozenset({"ids", "teacher"})
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")

    def __init__(self, *, gamma: float = 1.0, gamma_steps: int = 0, budget: float | None = None):
        super().__init__(gamma, gamma_steps, budget)

    def plan(self, _pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        """Ask for nothing: `forward` does, of a matrix that is no other term's."""
        return {}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:  # noqa: ARG002
        seen, read = pairs.teacher("image"), pairs.teacher("text")
        assert seen is not None, "the objective checks what terms need"
        assert read is not None, "the objective checks what terms need"
        # a difference of products is one product of longer rows, of which the teacher's part has no gradient
        images, texts = torch.cat([pairs.image, -seen], dim=1), torch.cat([pairs.text, read], dim=1)
        block = pairs.block_of(pairs.side_of(images), pairs.side_of(texts))
        found = pair_stats({"excess": block}, {"excess": (self.rows, self.columns)}, pairs.group)
        sums = torch.stack([found["excess", self.rows], found["excess", self.columns]], dim=1)
        return self.contrast(pairs, sums, pairs.scale * (images * texts).sum(dim=1))
