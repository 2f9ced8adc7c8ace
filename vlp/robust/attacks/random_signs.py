"""No attack at all: changes as large as an attack's, in directions drawn at random."""

from __future__ import annotations

from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.attacks.ball import into_ball
from vlp.ground.draws import uniform
from vlp.ground.ranges import Count
from vlp.robust.attacks.base import Attack, attacks
from vlp.robust.findings import Found, Worst
from vlp.robust.problem import Problem, margin

SALT = 1  # so that signs are not those of the random starts


@attacks.register("random_signs")
class RandomSigns(Attack):
    """Move every value of every pixel by the whole radius, up or down by chance: what any attack must do better than.

    Args:
        tries: Drawn changes of each image; the worst of all counts.
    """

    needs_gradients = False

    def __init__(self, *, tries: Count = 1):
        self.tries = tries

    def perturb(
        self, problem: Problem, pixels: Float32[Tensor, "n 3 h w"], radius: float, ids: Int64[Tensor, " n"]
    ) -> Found:
        worst = Worst(pixels)
        for number in range(self.tries):
            signs = (uniform(ids, number, SALT, pixels[0].numel()) - 0.5).sign().to(pixels.dtype).view_as(pixels)
            changed = into_ball(pixels + radius * signs, pixels, radius)
            worst.add(changed, problem.judge(changed, margin))
        return Found(worst.inputs)
