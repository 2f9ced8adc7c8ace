"""Square patches at random: an attack that asks for scores alone."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.attacks.ball import into_ball
from vlp.ground.draws import pick, uniform
from vlp.ground.ranges import Count, Positive
from vlp.robust.attacks.base import Attack, attacks
from vlp.robust.findings import Found, Worst
from vlp.robust.problem import Problem, margin

SALT = 2  # so that patches are not drawn as other things are
PAPER_QUERIES = 10_000
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries of the paper's after which a patch is half as big


@attacks.register("square")
class Square(Attack):
    """Paint squares of random colours, keep those that raise the margin: the Square attack.

    Andriushchenko et al. 2020, algorithms 1 and 2 (arXiv:1912.00049). It needs no gradients, so that a model whose
    gradients say nothing is not safe from it: what it alone finds is a sign that the others were misled.

    Args:
        queries: Scores that are asked for, per sample.
        patch: Share of the image that the first squares cover.
    """

    needs_gradients = False

    def __init__(self, *, queries: Count = 1000, patch: Positive = 0.8):
        self.queries, self.patch = queries, patch
        self.passes = queries

    def perturb(
        self, problem: Problem, pixels: Float32[Tensor, "n 3 h w"], radius: float, ids: Int64[Tensor, " n"]
    ) -> Found:
        stripes = _signs(uniform(ids, 0, SALT, 3 * pixels.shape[3]), pixels).view(-1, 3, 1, pixels.shape[3])
        start = into_ball(pixels + radius * stripes, pixels, radius)
        worst = Worst(pixels)
        worst.add(start, problem.judge(start, margin))
        for query in range(1, self.queries):
            left = worst.left
            if not len(left):
                break
            painted = self._paint(worst.inputs[left], pixels[left], radius, ids[left], query)
            worst.add(painted, problem.at(left).judge(painted, margin), left)
        return Found(worst.inputs)

    def _paint(
        self,
        values: Float32[Tensor, "k 3 h w"],
        pixels: Float32[Tensor, "k 3 h w"],
        radius: float,
        ids: Int64[Tensor, " k"],
        query: int,
    ) -> Float32[Tensor, "k 3 h w"]:
        """Return the same with a square of one colour each, drawn for the sample and the query."""
        height, width = values.shape[2:]
        side = min(height, width, max(1, round((self._share(query) * height * width) ** 0.5)))
        draws = uniform(ids, query, SALT, 5)
        top, left = pick(draws[:, 0], height - side + 1), pick(draws[:, 1], width - side + 1)
        rows, columns = (torch.arange(size, device=values.device) for size in (height, width))
        in_rows = (rows >= top[:, None]) & (rows < top[:, None] + side)
        in_columns = (columns >= left[:, None]) & (columns < left[:, None] + side)
        inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
        color = 2 * radius * _signs(draws[:, 2:], values)[:, :, None, None]
        return into_ball(values + color * inside, pixels, radius)

    def _share(self, query: int) -> float:
        """Return which share of the image a square covers, after the schedule of the paper."""
        at = query / self.queries * PAPER_QUERIES
        return self.patch / 2 ** sum(at > end for end in HALVINGS)


def _signs(draws: Tensor, like: Tensor) -> Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0).to(like.dtype)
