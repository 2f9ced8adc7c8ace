"""Projected gradient ascent that keeps the worst of all it meets."""

from __future__ import annotations

from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.attacks.ball import random_start, signed_step
from vlp.robust.findings import Found, Worst, blind
from vlp.robust.problem import Problem, ScoreLoss


def ascend(
    problem: Problem,
    pixels: Float32[Tensor, "n 3 h w"],
    radius: float,
    ids: Int64[Tensor, " n"],
    loss: ScoreLoss,
    *,
    steps: int,
    step: float,
    restarts: int,
) -> Found:
    """Return the worst pixels that ascents from random starts come by (Madry et al. 2018, arXiv:1706.06083).

    Args:
        step: As a share of the radius.
        restarts: How many ascents there are.
    """
    worst, no_gradient = Worst(pixels), None
    for restart in range(restarts):
        values = random_start(pixels, radius, ids, step=restart)
        for _ in range(steps):
            judged, gradient = problem.climb(values, loss)
            no_gradient = blind(gradient) if no_gradient is None else no_gradient
            worst.add(values, judged)
            values = signed_step(values, gradient, step * radius, pixels, radius)
        worst.add(values, problem.judge(values, loss))
    return Found(worst.inputs, no_gradient)
