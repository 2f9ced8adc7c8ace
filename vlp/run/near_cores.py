"""Keeps a process, and those that it starts, on the cores beside its device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vlp.ground import dist
from vlp.ground.cores import own_cores, part_of

DEVICES = Path("/sys/bus/pci/devices")

Cores = frozenset[int]


def stay_near(device: torch.device) -> None:
    """Stay on the cores of the memory node to which the device is attached; called by all processes of a job.

    Pixels then do not cross from one node to the other on their way to the device. Everything stays as it was where
    no device says what is near, or some process of the machine would have fewer cores than before: one process on a
    machine of two nodes decodes on both.
    """
    own = own_cores()
    near = own & cores_beside(device)
    here = dist.gather_on_machine((own, near))
    if near and near != own and loses_nothing(here):
        os.sched_setaffinity(0, near)


def cores_beside(device: torch.device) -> Cores:
    """Return the cores of the memory node of a GPU; none where the machine does not say."""
    if device.type != "cuda":
        return frozenset()
    facts: Any = torch.cuda.get_device_properties(device)
    try:
        address = f"{facts.pci_domain_id:04x}:{facts.pci_bus_id:02x}:{facts.pci_device_id:02x}.0"
        return numbers_of((DEVICES / address / "local_cpulist").read_text(encoding="utf-8"))
    except (AttributeError, OSError, ValueError):
        return frozenset()


def numbers_of(text: str) -> Cores:
    """Return the numbers in a list as the kernel writes it, such as `0-3,8`."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return frozenset(number for low, _, high in ranges for number in range(int(low), int(high or low) + 1))


def loses_nothing(processes: Sequence[tuple[Cores, Cores]]) -> bool:
    """Whether no process of a machine is left with fewer cores if all stay near their devices.

    Args:
        processes: The cores that each may use, and those of them beside its device.
    """
    before, after = [own for own, _ in processes], [near or own for own, near in processes]
    return all(part_of(near, after) >= part_of(own, before) for own, near in zip(before, after, strict=True))
