"""Seconds on a device, and what a card can do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MILLI = 1e-3


@dataclass(frozen=True)
class Card:
    """What a card was measured to reach, in operations and bytes per second.

    Args:
        bfloat16: Of a product of 8192 x 8192 matrices, as are `tf32` and `float32`.
        copy: Read and written.
    """

    bfloat16: float
    tf32: float
    float32: float
    copy: float


H100 = Card(bfloat16=798e12, tf32=400e12, float32=52e12, copy=3.0e12)
"""What expectations are about; another card differs from it."""


def seconds_of(action: Callable[[], object], *, device: str, repeats: int = 5, warm_up: int = 2) -> list[float]:
    """Return how long each of several calls took; on CUDA between two events of the device."""
    for _ in range(warm_up):
        action()
    if device == "cpu":
        return [_wall_seconds(action) for _ in range(repeats)]
    torch.cuda.synchronize()
    return [_event_seconds(action) for _ in range(repeats)]


def median(values: list[float]) -> float:
    """Return the middle one."""
    return statistics.median(values)


def wait(device: str) -> None:
    """Let the device finish."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_gb(device: str) -> float:
    """Return the most memory, in GB, that tensors on the device took since the last `forget_peak`."""
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0


def forget_peak(device: str) -> None:
    """Begin to look for the most memory."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _wall_seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _event_seconds(action: Callable[[], object]) -> float:
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    action()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) * MILLI
