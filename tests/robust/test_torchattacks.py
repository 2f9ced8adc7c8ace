"""Our attacks beside those of torchattacks, on the same model and the same samples.

`pip install --no-deps torchattacks`: what it asks for beside torch would replace newer versions.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.robust.stages import random_problem
from vlp.robust.attacks.base import attacks
from vlp.robust.problem import margin

torchattacks = pytest.importorskip("torchattacks", reason="pip install --no-deps torchattacks to compare with it")

RADIUS = 0.01
SIZE = 200
PEERS = {
    "pgd": lambda model: torchattacks.PGD(model, eps=RADIUS, alpha=RADIUS / 4, steps=10, random_start=True),
    "apgd_ce": lambda model: torchattacks.APGD(model, eps=RADIUS, steps=20, loss="ce"),
    "apgd_t": lambda model: torchattacks.APGDT(model, eps=RADIUS, steps=20, n_classes=5),
    "square": lambda model: torchattacks.Square(model, eps=RADIUS, n_queries=100),
}
OURS = {
    "pgd": {"steps": 10},
    "apgd_ce": {"steps": 20},
    "apgd_t": {"steps": 20, "targets": 4},
    "square": {"queries": 100},
}


class Wrapped(nn.Module):
    """A problem as torchattacks wants a model; it asks for the device of a parameter."""

    def __init__(self, problem):
        super().__init__()
        self.problem = problem
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, pixels):
        return self.problem.scores(pixels)


@pytest.mark.parametrize("name", OURS)
def test_we_leave_no_more_right_than_they_do(name):
    problem, pixels = random_problem(num=SIZE, seed=4)
    labels = problem.positives.long().argmax(dim=1)
    theirs = PEERS[name](Wrapped(problem).eval())(pixels, labels)
    ours = attacks.build(name, OURS[name]).perturb(problem, pixels, RADIUS, torch.arange(SIZE)).inputs
    left = [int((margin(problem.scores(found), problem.positives) <= 0).sum()) for found in (ours, theirs)]
    assert 0 < left[1] < SIZE  # a radius at which they differ, if they do
    assert left[0] <= left[1] + {"square": SIZE // 25}.get(name, SIZE // 100)
    assert (ours - pixels).abs().max() <= RADIUS + 1e-6
