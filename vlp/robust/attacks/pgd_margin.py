"""Projected gradient ascent on the margin."""

from __future__ import annotations

from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.robust.ascent import ascend
from vlp.robust.attacks.base import Attack, Count, Positive, attacks
from vlp.robust.findings import Found
from vlp.robust.problem import Problem, margin


@attacks.register("pgd_margin")
class PgdMargin(Attack):
    """Climb what the best wrong candidate is ahead of the best right one, in signed steps from random starts.

    The loss of Carlini and Wagner 2017 (arXiv:1608.04644, f6) in the ascent of Madry et al. 2018 (arXiv:1706.06083).
    Signs of its gradient do not depend on the scale, so that neither a low nor a high one hides anything.

    Args:
        steps: Gradients per start.
        step: Size of each step, as a share of the radius.
        restarts: Random starts; the worst of all counts.
    """

    def __init__(self, *, steps: Count = 20, step: Positive = 0.25, restarts: Count = 1):
        self.steps, self.step, self.restarts = steps, step, restarts
        self.passes = 3 * steps * restarts

    def perturb(
        self, problem: Problem, pixels: Float32[Tensor, "n 3 h w"], radius: float, ids: Int64[Tensor, " n"]
    ) -> Found:
        return ascend(problem, pixels, radius, ids, margin, steps=self.steps, step=self.step, restarts=self.restarts)
