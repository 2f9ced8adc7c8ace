"""A teacher's ranking of the hardest candidates."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.ranking import candidates, logits_of, rank_as
from vlp.pairs import TOPK, Axis, Pairs, Stats, products_at

AXES: tuple[Axis, Axis] = ("row", "column")


@terms.register("ranker_distillation")
class RankerDistillationTerm(Term):
    """Rank each sample's partner and its hardest negatives in the batch as the teacher ranks them.

    Zhang et al. 2021 (arXiv:2110.03611), with a dual teacher in place of the ranker and the batch in place of an
    index. A companion of a contrastive term: candidates beyond the hardest are not seen.

    Formula: mean_i - sum_k q_ik log p_ik in both directions; p = softmax_k z_ik, q = softmax_k of the teacher's logits
    f over the partner and the `num_negatives` largest z_ij, j != i; plus adversarial * sum_{k != i}
    log sigmoid(f_ii - f_ik) log p_ik

    Args:
        num_negatives: Candidates beside the partner.
        teacher_scale: Inverse temperature of the teacher; None takes the model's of the moment, without gradient.
        adversarial: Weight of raising the negatives that the teacher takes for the partner.

    Raises:
        ValueError: No negatives, a scale that is not positive, or a negative weight.
    """

    needs = frozenset({"teacher"})
    min_pairs = 2

    def __init__(self, *, num_negatives: int = 16, teacher_scale: float | None = None, adversarial: float = 0.0):
        super().__init__()
        if num_negatives < 1 or adversarial < 0 or (teacher_scale is not None and teacher_scale <= 0):
            raise ValueError(
                f"num_negatives {num_negatives} and teacher_scale {teacher_scale} must be positive, adversarial "
                f"{adversarial} not negative"
            )
        self.gradient_is_slope = teacher_scale is not None
        self.teacher_scale = teacher_scale
        self.adversarial = adversarial
        self.hardest = {axis: TOPK(axis, num_negatives) for axis in AXES}
        self.requests = {"image_text": tuple(self.hardest.values())}

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        images = self._miss(pairs, "image", "text", stats["image_text", self.hardest["row"]])
        texts = self._miss(pairs, "text", "image", stats["image_text", self.hardest["column"]])
        return pairs.mean((images + texts) / 2)

    def _miss(self, pairs: Pairs, anchor: str, other: str, chosen: Int64[Tensor, "n k"]) -> Float[Tensor, " n"]:
        own, others = pairs.teacher(anchor), pairs.teacher(other)
        assert own is not None, "the objective checks what terms need"
        assert others is not None, "the objective checks what terms need"
        absent = functional.pad(chosen < 0, (1, 0))
        taught = candidates((own * others).sum(dim=1), products_at(own, pairs.gather(others), chosen.clamp(min=0)))
        learnt = candidates(pairs.positive_cosines, pairs.cosines_at(anchor, other, chosen))
        teacher_scale = pairs.scale.detach() if self.teacher_scale is None else self.teacher_scale
        ranking = logits_of(taught, teacher_scale, absent)
        return rank_as(ranking, logits_of(learnt, pairs.scale, absent), absent, self.adversarial)
