"""How many cores this process may use: a machine's number is not a container's."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from vlp.ground import dist

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of the second version; inside a container, its own


def usable_cores() -> int:
    """Return the cores that this process may use, at least one: by its affinity, and by its container's quota."""
    own = len(own_cores())
    return max(1, min(own, math.ceil(quota())) if quota() < own else own)


def own_cores() -> frozenset[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def fair_share() -> int:
    """Return the cores that fall to this process of a job, at least one; called by all of its processes.

    Launchers let the processes of a machine run on all of its cores, or give each its own: those that several may use
    are shared out among them.
    """
    own = own_cores()
    here = dist.gather_on_machine(own)
    return max(1, math.floor(min(float(part_of(own, here)), quota() / len(here))))


def part_of(cores: frozenset[int], everyones: Sequence[frozenset[int]]) -> Fraction:
    """Return how many of its cores fall to a process, where each core is shared by all that may use it.

    Args:
        everyones: Cores of each process of the machine, this one among them.
    """
    return sum((Fraction(1, sum(core in each for each in everyones)) for core in cores), Fraction(0))


def quota() -> float:
    """Return how many cores' worth of time a container may use; infinity where nobody limits it."""
    try:
        most, period = QUOTA.read_text(encoding="utf-8").split()
        return math.inf if most == "max" else int(most) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
