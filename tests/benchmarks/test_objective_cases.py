"""What benchmarks draw for terms."""

from __future__ import annotations

import torch

from benchmarks.objective_cases import build, embeddings_of, unit
from vlp.objectives.base import terms
from vlp.pairs import Pairs

PAIRS, DIM = 4, 8


def test_every_term_gets_what_it_needs():
    leaves = [unit(PAIRS, k, dim=DIM) for k in range(2)] + [torch.tensor(10.0), torch.tensor(-10.0)]
    ids = torch.arange(PAIRS)
    for name in terms:
        needs = build(name, DIM).needs
        assert needs <= Pairs(embeddings_of(leaves, needs, 5)[0], ids, ids).carries, name
