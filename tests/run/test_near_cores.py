"""Processes stay on the cores beside their devices, where none of them loses by it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from tests.processes import run_processes
from vlp.ground.cores import fair_share, own_cores
from vlp.run import near_cores
from vlp.run.near_cores import cores_beside, loses_nothing, numbers_of, stay_near

ALL = frozenset(range(8))
LOW, HIGH = frozenset(range(4)), frozenset(range(4, 8))


def test_lists_of_the_kernel_are_read():
    assert numbers_of("0-2,8,10-11\n") == {0, 1, 2, 8, 10, 11}
    assert numbers_of("\n") == frozenset()


def test_a_gpu_is_found_by_its_address(monkeypatch, tmp_path):
    (tmp_path / "0000:3b:00.0").mkdir()
    (tmp_path / "0000:3b:00.0" / "local_cpulist").write_text("0-1\n")
    facts = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(near_cores, "DEVICES", tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)
    assert cores_beside(torch.device("cuda", 0)) == {0, 1}
    facts.pci_bus_id = 0x3C
    assert cores_beside(torch.device("cuda", 0)) == frozenset()  # the machine does not say
    assert cores_beside(torch.device("cpu")) == frozenset()


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        ([(ALL, LOW), (ALL, HIGH)], True),
        ([(ALL, LOW), (ALL, LOW)], False),  # both devices on one node: the other one's cores would decode nothing
        ([(ALL, LOW)], False),
        ([(ALL, LOW), (ALL, frozenset())], False),  # of whose device nobody knows may run there, too
        ([(LOW, LOW), (HIGH, HIGH)], True),
    ],
)
def test_nobody_may_lose(processes, expected):
    assert loses_nothing(processes) == expected


def _stay(rank: int, world_size: int) -> tuple[set[int], int, int]:
    cores = sorted(own_cores())
    halves = [frozenset(cores[place::world_size]) for place in range(world_size)]
    near_cores.cores_beside = lambda _: halves[rank]
    before = fair_share()
    stay_near(torch.device("cuda", rank))
    return os.sched_getaffinity(0), before, fair_share()


@pytest.mark.processes
@pytest.mark.skipif(len(own_cores()) < 2, reason="one core is near to everything")
def test_processes_stay_near_and_keep_their_share():
    (first, *shares), (second, *others) = run_processes(_stay, 2)
    assert first and second and not first & second
    assert shares[0] <= shares[1] and others[0] <= others[1]
