"""APGD on the cross-entropy."""

from __future__ import annotations

from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.ground.ranges import Count
from vlp.robust.attacks.base import Attack, attacks
from vlp.robust.auto_pgd import auto_pgd
from vlp.robust.findings import Found, Worst
from vlp.robust.problem import Problem, cross_entropy, margin


@attacks.register("apgd_ce")
class ApgdCrossEntropy(Attack):
    """Climb the cross-entropy at the model's own scale with steps that find their size: APGD-CE.

    Croce and Hein 2020 (arXiv:2003.01690), one of the four attacks of AutoAttack.

    Args:
        steps: Gradients per start.
        restarts: Random starts; each takes up the samples that are still right.
    """

    def __init__(self, *, steps: Count = 100, restarts: Count = 1):
        self.steps, self.restarts = steps, restarts
        self.passes = 3 * steps * restarts

    def perturb(
        self, problem: Problem, pixels: Float32[Tensor, "n 3 h w"], radius: float, ids: Int64[Tensor, " n"]
    ) -> Found:
        found = auto_pgd(problem, pixels, radius, ids, cross_entropy, steps=self.steps)
        worst = Worst(pixels)
        worst.add(found.inputs, problem.judge(found.inputs, margin))
        for restart in range(1, self.restarts):
            left = worst.left
            if not len(left):
                break
            some = problem.at(left)
            again = auto_pgd(some, pixels[left], radius, ids[left], cross_entropy, steps=self.steps, restart=restart)
            worst.add(again.inputs, some.judge(again.inputs, margin), left)
        return Found(worst.inputs, found.is_blind)
