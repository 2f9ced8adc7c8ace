"""What processes send in a step is what `docs/clusters.md` says: each kind of collective, byte by byte."""

from __future__ import annotations

from collections import Counter
from unittest.mock import patch

import pytest
import torch

from tests.objectives.batches import one, unit
from tests.processes import run_processes
from vlp.ground import dist
from vlp.ground.types import Embeddings
from vlp.objectives.base import Objective, terms
from vlp.pairs import Pairs

LOCAL, WIDTH = 8, 16
FLOAT32 = 4
SMALL = 8  # bytes: scalars are no part of the formula
# matrices, sums by column that need all processes, numbers of a row that come back to its columns
TERMS = {
    "clip": (1, 1, 1),
    "siglip": (1, 0, 0),
    "dcl": (1, 1, 1),
    "cross_uniformity": (1, 0, 0),
    "uniformity": (2, 2, 4),  # symmetric matrices return a sum with its gradient
}


class Spy:
    """Counts the bytes that this process hands to collectives."""

    def __init__(self):
        self.bytes = Counter()

    def of(self, name, place):
        own = {"all_gather": dist.start_gathering, "reduce_scatter": dist.reduce_scatter_rows}
        real = own.get(name) or getattr(torch.distributed, name)

        def counted(*given, **named):
            if (size := given[place].nbytes) > SMALL:
                self.bytes[name] += size
            return real(*given, **named)

        return counted


def _step(rank, world_size, name):
    """Return what one forward and backward pass of a term sends."""
    rows = slice(rank * LOCAL, (rank + 1) * LOCAL)
    image, text = (unit(LOCAL * world_size, WIDTH, seed).float()[rows].requires_grad_() for seed in (1, 2))
    scale, bias = (torch.tensor(value, requires_grad=True) for value in (10.0, 0.0))
    ids = torch.arange(rows.start, rows.stop)
    pairs = Pairs(Embeddings(image, text, scale, bias), ids, ids, has_twins=False)
    objective = Objective({"term": (terms.build(name, {}), one)})
    spy = Spy()
    with (
        patch.object(dist, "start_gathering", spy.of("all_gather", 0)),
        patch.object(torch.distributed, "all_reduce", spy.of("all_reduce", 0)),
        patch.object(dist, "reduce_scatter_rows", spy.of("reduce_scatter", 0)),
    ):
        objective(pairs, 0)[0].backward()
    return dict(spy.bytes)


def _steps(rank, world_size):
    return {name: _step(rank, world_size, name) for name in TERMS}


@pytest.mark.processes
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_each_process_sends_what_the_formula_says(world_size):
    batch = LOCAL * world_size
    for sent in run_processes(_steps, world_size):
        for name, (matrices, sums, returned) in TERMS.items():
            expected = {
                "all_gather": (matrices * WIDTH + returned) * LOCAL * FLOAT32,
                "all_reduce": sums * batch * FLOAT32,
                "reduce_scatter": matrices * batch * WIDTH * FLOAT32,
            }
            assert sent[name] == {kind: size for kind, size in expected.items() if size}, name
