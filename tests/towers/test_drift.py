"""Drift of weights by hand, and of sharded ones in three processes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from tests.processes import run_processes
from vlp.towers.drift import weight_drift

WEIGHTS = {
    "core.visual.a": torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0]),
    "core.text.b": torch.tensor([[0.0, 4.0]]),
    "count": torch.tensor(7),
}
OTHERS = {
    "core.visual.a": torch.tensor([3.0, 1.0, 0.0, 0.0, 0.0]),
    "core.text.b": torch.tensor([[2.0, 4.0]]),
    "count": torch.tensor(9),
}
EXPECTED = {"weight_drift": math.sqrt(5) / 5, "weight_drift_image": 1 / 3, "weight_drift_text": 1 / 2}


def test_by_hand():
    assert weight_drift(WEIGHTS, OTHERS) == pytest.approx(EXPECTED)
    assert weight_drift(WEIGHTS, WEIGHTS) == dict.fromkeys(EXPECTED, 0)


def test_unrelated_weights_are_root_two_apart():
    first, second = (torch.randn(10_000, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert weight_drift({"w": first}, {"w": second})["weight_drift"] == pytest.approx(math.sqrt(2), abs=0.03)


def _drift_of_shards(rank, world_size):
    mesh = init_device_mesh("cpu", (world_size,))

    def shard(weights):
        whole = {"core.text.b", "count"}  # some are sharded, some are not
        return {n: w if n in whole else distribute_tensor(w, mesh, [Shard(0)]) for n, w in weights.items()}

    return weight_drift(shard(WEIGHTS), shard(OTHERS))


def test_shards_add_up():
    assert run_processes(_drift_of_shards, 3) == [pytest.approx(EXPECTED)] * 3
