"""A teacher's softmax as the target of the student's."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.objectives.base import Term, terms
from vlp.objectives.shared.soft import expected_logits, frozen_block
from vlp.pairs import LSE, WMEAN, Axis, Pairs, Stats, pair_stats

AXES: tuple[Axis, Axis] = ("row", "column")


@terms.register("soft_targets")
class SoftTargetsTerm(Term):
    """Match the teacher's retrieval probabilities over the whole batch, in both directions.

    Soft-label distillation between dual encoders (arXiv:2104.08945; the cross-modal part of arXiv:2107.07651). With
    an average of the model's own weights it softens the claim that a caption fits one image only; alone it teaches
    nothing that the teacher does not know. The teacher's probabilities never exist as a matrix.

    Formula: mean_i KL(softmax_j of the teacher's logits t_ij || softmax_j z_ij) in both directions

    Args:
        teacher_scale: Inverse temperature of the teacher; None takes the model's of the moment, without gradient.

    Raises:
        ValueError: `teacher_scale` is not positive.
    """

    needs = frozenset({"teacher"})
    rows, columns = LSE("row", mask="pair"), LSE("column", mask="pair")
    requests = {"image_text": (rows, columns)}

    def __init__(self, *, teacher_scale: float | None = None):
        super().__init__()
        if teacher_scale is not None and teacher_scale <= 0:
            raise ValueError(f"teacher_scale {teacher_scale} must be positive")
        self.teacher_scale = teacher_scale
        self.gradient_is_slope = teacher_scale is not None
        self.sums, self.means = ({axis: kind(axis, mask="twin") for axis in AXES} for kind in (LSE, WMEAN))

    def forward(self, pairs: Pairs, stats: Stats) -> Float[Tensor, ""]:
        image, text = pairs.teacher("image"), pairs.teacher("text")
        assert image is not None, "the objective checks what terms need"
        assert text is not None, "the objective checks what terms need"
        scale = pairs.scale if self.teacher_scale is None else torch.full_like(pairs.scale, self.teacher_scale)
        teacher = frozen_block(pairs.side_of(image), pairs.side_of(text), scale)
        requests = (*self.sums.values(), *self.means.values())
        taught = pair_stats({"taught": teacher}, {"taught": requests}, pairs.group)
        sums, means = ([taught["taught", kind[axis]] for axis in AXES] for kind in (self.sums, self.means))
        everyones = [pairs.gather(values) for values in sums]
        nothing = torch.zeros_like(everyones[0])
        block = pairs.block_of(pairs.side("image"), pairs.side("text"))
        expected = expected_logits(pairs, block, teacher, (-everyones[0], nothing), (nothing, -everyones[1]))
        wrong = [stats["image_text", request] for request in (self.rows, self.columns)]
        losses = [
            torch.logaddexp(pairs.positive_logits, wrong[k]) - expected[k] - (sums[k] - means[k]) for k in range(2)
        ]
        return pairs.mean((losses[0] + losses[1]) / 2)
