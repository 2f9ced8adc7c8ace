"""How many cores this process may use: a machine's number is not a container's."""

from __future__ import annotations

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of the second version; inside a container, its own


def usable_cores() -> int:
    """Return the cores that this process may use, at least one: by its affinity, and by its container's quota."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(own, math.ceil(quota())) if quota() < own else own)


def quota() -> float:
    """Return how many cores' worth of time a container may use; infinity where nobody limits it."""
    try:
        most, period = QUOTA.read_text(encoding="utf-8").split()
        return math.inf if most == "max" else int(most) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
