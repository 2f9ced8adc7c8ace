"""How much memory a device has, and how much of it a process has used."""

from __future__ import annotations

import os
import resource
import sys

import torch


def memory_of(device: torch.device) -> float:
    """Return the bytes of a device; on the CPU, of the machine."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def peak_memory(device: torch.device) -> float:
    """Return the most bytes that this process has held: what torch reserved on a device; on the CPU, the whole process.

    What CUDA itself takes for its context and libraries is not in it.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
