"""APGD towards one wrong candidate after the other."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.ground.ranges import Count
from vlp.robust.attacks.base import Attack, attacks
from vlp.robust.auto_pgd import auto_pgd
from vlp.robust.findings import Found, Worst
from vlp.robust.problem import Problem, margin, towards


@attacks.register("apgd_t")
class ApgdTargeted(Attack):
    """Bring each of the nearest wrong candidates ahead, one after the other, by the targeted DLR: APGD-T.

    Croce and Hein 2020 (arXiv:2003.01690), one of the four attacks of AutoAttack. A candidate is tried on the samples
    that those before it have left right.

    Args:
        targets: Wrong candidates per sample, those that score most on the unchanged image.
        steps: Gradients per candidate.
    """

    def __init__(self, *, targets: Count = 9, steps: Count = 100):
        self.targets, self.steps = targets, steps
        self.passes = 3 * steps * targets

    def perturb(
        self, problem: Problem, pixels: Float32[Tensor, "n 3 h w"], radius: float, ids: Int64[Tensor, " n"]
    ) -> Found:
        with torch.no_grad():
            wrong = problem.scores(pixels).masked_fill(problem.positives, -torch.inf)
        most = int((~problem.positives).sum(dim=1).min())
        order = wrong.topk(min(self.targets, most), dim=1).indices
        worst, no_gradient = Worst(pixels), None
        for number in range(order.shape[1]):
            left = worst.left
            if not len(left):
                break
            some, loss = problem.at(left), towards(order[left, number])
            found = auto_pgd(some, pixels[left], radius, ids[left], loss, steps=self.steps, restart=number)
            no_gradient = found.is_blind if no_gradient is None else no_gradient
            worst.add(found.inputs, some.judge(found.inputs, margin), left)
        return Found(worst.inputs, no_gradient)
