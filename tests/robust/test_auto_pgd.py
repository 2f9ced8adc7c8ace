"""APGD by a slow reading of its paper, one sample at a time."""

from __future__ import annotations

import torch

from tests.robust.stages import random_problem
from vlp.attacks.ball import into_ball, random_start
from vlp.robust.auto_pgd import auto_pgd, checkpoints
from vlp.robust.problem import cross_entropy, margin


def by_hand(problem, pixels, radius, number, steps):
    """Algorithm 1 on one sample, in plain loops; the first look never asks whether the best has moved."""
    looks = checkpoints(steps)

    def look(values):
        values = values.clone().requires_grad_()
        loss = cross_entropy(problem.scores(values), problem.positives)[0]
        (gradient,) = torch.autograd.grad(loss, values)
        return loss.item(), gradient, margin(problem.scores(values), problem.positives)[0].item() > 0

    values = before = random_start(pixels, radius, torch.tensor([number]))
    loss, gradient, wrong = look(values)
    best, worst = (loss, values, gradient), (wrong, loss, values)
    size, rises, halved, best_before, looked = 2 * radius, 0, True, loss, 0
    for step in range(1, steps + 1):
        target = into_ball(values + size * gradient.sign(), pixels, radius)
        share = 0.75 if step > 1 else 1.0
        new = into_ball(values + share * (target - values) + (1 - share) * (values - before), pixels, radius)
        before, values, last = values, new, loss
        loss, gradient, wrong = look(values)
        worst = max(worst, (wrong, loss, values), key=lambda each: each[:2])
        rises += loss > last
        if loss > best[0]:
            best = (loss, values, gradient)
        if step in looks:
            stuck = rises < 0.75 * (step - looked) or (not halved and best[0] <= best_before)
            if stuck:
                size, values, gradient = size / 2, best[1], best[2]
            halved, best_before, looked, rises = stuck, best[0], step, 0
    return worst[2]


def test_it_is_the_algorithm_of_the_paper():
    problem, pixels = random_problem(num=5, seed=3, dtype=torch.float64)  # signs of float32 are a matter of rounding
    found = auto_pgd(problem, pixels, 0.02, torch.arange(5), cross_entropy, steps=25).inputs
    for number in range(5):
        alone = by_hand(problem.at(torch.tensor([number])), pixels[[number]], 0.02, number, 25)
        torch.testing.assert_close(found[[number]], alone, atol=1e-6, rtol=0)


def test_looks_come_closer_together():
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]  # those of the authors' code
    assert checkpoints(1) == {1}
