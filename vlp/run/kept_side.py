"""What is common to the embeddings that are kept of either tower: their way to the CPU, and what keeping gains."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor


class Arriving:
    """Rows on their way from the device to the CPU, which no step waits for.

    Args:
        write: Takes what rows belong to, and the rows.
    """

    def __init__(self, write: Callable[[Any, NDArray[Any]], None]):
        self._write = write
        self._on_their_way: list[tuple[Any, Tensor, Any]] = []

    def send(self, whose: Any, rows: Float32[Tensor, "n d"]) -> None:
        """Let rows set out."""
        if rows.device.type != "cuda":
            self._write(whose, rows.detach().cpu().numpy())
            return
        copy = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        copy.copy_(rows.detach(), non_blocking=True)
        there = torch.cuda.Event()
        there.record()
        self._on_their_way.append((whose, copy, there))

    def take_in(self, *, wait: bool) -> None:
        """Write what has arrived; the step waits for nothing, a checkpoint for all."""
        while self._on_their_way and (wait or self._on_their_way[0][2].query()):
            whose, copy, there = self._on_their_way.pop(0)
            there.synchronize()
            self._write(whose, copy.numpy())


class Gain:
    """Compares the speed while something is embedded with that afterwards.

    Args:
        what: What is embedded.
    """

    def __init__(self, what: str):
        self._what = what
        self._before: list[float] = []
        self._is_said = False

    def __call__(self, share: float, rate: float) -> str:
        """Return a sentence when the first line comes in which all were kept; nothing at other times.

        Args:
            share: Of what was kept already.
            rate: Pairs per second.
        """
        if share == 0:
            self._before.append(rate)
        if share < 1 or self._is_said:
            return ""
        self._is_said = True
        if not self._before:
            return f"all {self._what} are kept: {rate:,.4g} pairs/s"
        before = statistics.median(self._before[1:] or self._before)  # the first holds what happens once
        return (
            f"all {self._what} are kept: {rate:,.4g} pairs/s, {before:,.4g} while they were embedded "
            f"({rate / before:.1f}x)"
        )
