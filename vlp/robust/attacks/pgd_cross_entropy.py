"""Projected gradient ascent on the cross-entropy."""

from __future__ import annotations

from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.ground.ranges import Count, Positive
from vlp.robust.ascent import ascend
from vlp.robust.attacks.base import Attack, attacks
from vlp.robust.findings import Found
from vlp.robust.problem import Problem, cross_entropy


@attacks.register("pgd")
class PgdCrossEntropy(Attack):
    """Climb the cross-entropy of the right candidates, at the model's own scale, in signed steps from random starts.

    Madry et al. 2018 (arXiv:1706.06083). Without the scale, cosines differ too little for the softmax to care, and a
    model looks robust that is not.

    Args:
        steps: Gradients per start.
        step: Size of each step, as a share of the radius.
        restarts: Random starts; the worst of all counts.
    """

    loss = staticmethod(cross_entropy)

    def __init__(self, *, steps: Count = 20, step: Positive = 0.25, restarts: Count = 1):
        self.steps, self.step, self.restarts = steps, step, restarts
        self.passes = 3 * steps * restarts

    def perturb(
        self, problem: Problem, pixels: Float32[Tensor, "n 3 h w"], radius: float, ids: Int64[Tensor, " n"]
    ) -> Found:
        return ascend(problem, pixels, radius, ids, self.loss, steps=self.steps, step=self.step, restarts=self.restarts)
