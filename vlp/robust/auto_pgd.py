"""APGD: projected gradient ascent that finds its own step size."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.attacks.ball import into_ball, random_start, signed_step
from vlp.robust.findings import Found, Worst, blind
from vlp.robust.problem import Problem, ScoreLoss

INERTIA = 0.75  # alpha of the paper: how much of a step is new
ENOUGH_RISES = 0.75  # rho
FIRST, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # shares of the steps between two looks at the step size


def auto_pgd(
    problem: Problem,
    pixels: Float32[Tensor, "n 3 h w"],
    radius: float,
    ids: Int64[Tensor, " n"],
    loss: ScoreLoss,
    *,
    steps: int,
    restart: int = 0,
) -> Found:
    """Return the worst pixels that one ascent comes by.

    Croce and Hein 2020, algorithm 1 (arXiv:2003.01690): signed steps of twice the radius with inertia; at certain
    steps, samples whose loss has stopped rising go back to their best and halve their step.

    Args:
        restart: Number of the ascent; each has a start of its own.
    """
    values = before = random_start(pixels, radius, ids, step=restart)
    judged, gradient = problem.climb(values, loss)
    no_gradient = blind(gradient)
    worst = Worst(pixels)
    worst.add(values, judged)
    best, best_loss, best_gradient = values, judged.loss, gradient
    size = torch.full_like(pixels[:, :1, :1, :1], 2 * radius)
    rises = torch.zeros_like(judged.loss)
    has_halved, loss_before, looked = torch.ones_like(judged.is_wrong), best_loss, 0
    looks = checkpoints(steps)
    for number in range(1, steps + 1):
        last_loss = judged.loss
        stepped = signed_step(values, gradient, size, pixels, radius)
        share = INERTIA if number > 1 else 1.0
        moved = values + share * (stepped - values) + (1 - share) * (values - before)
        before, values = values, into_ball(moved, pixels, radius)
        judged, gradient = problem.climb(values, loss)
        worst.add(values, judged)
        rises += judged.loss > last_loss
        is_best = judged.loss > best_loss
        best_loss = torch.where(is_best, judged.loss, best_loss)
        best, best_gradient = _where(is_best, values, best), _where(is_best, gradient, best_gradient)
        if number in looks:
            is_stuck = (rises < ENOUGH_RISES * (number - looked)) | (~has_halved & (best_loss <= loss_before))
            size = torch.where(is_stuck[:, None, None, None], size / 2, size)
            values, gradient = _where(is_stuck, best, values), _where(is_stuck, best_gradient, gradient)
            has_halved, loss_before, looked = is_stuck, best_loss, number
            rises = torch.zeros_like(rises)
    return Found(worst.inputs, no_gradient)


def checkpoints(steps: int) -> frozenset[int]:
    """Return the steps after which the step size is looked at: further apart at first, as in the authors' code."""
    gap, shorter, shortest = (max(1, int(share * steps)) for share in (FIRST, SHORTER, SHORTEST))
    found, at = set(), gap
    while at <= steps:
        found.add(at)
        gap = max(gap - shorter, shortest)
        at += gap
    return frozenset(found)


def _where(flags: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(flags[:, None, None, None], yes, no)
