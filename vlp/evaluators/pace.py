"""How far a list of tasks has come, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Sequence


class Pace:
    """How long the rest will take, judged by the samples that were done, or by any other measure of work.

    Args:
        sizes: Of the tasks that are to run; None where nobody knows it, which counts like the others.
        num_done: How many other tasks were done before.
    """

    def __init__(self, sizes: Sequence[float | None], *, num_done: int = 0):
        known = [size for size in sizes if size]
        self._typical = sum(known) / len(known) if known else 1.0
        self._left = sum(size or self._typical for size in sizes)
        self._done = 0.0
        self._number, self._total = num_done, num_done + len(sizes)
        self._started = time.monotonic()

    def after(self, size: float | None) -> str:
        """Say which task this was, of how many, and how long the others will take."""
        self._done += size or self._typical
        return self.skip(size)

    def skip(self, size: float | None) -> str:
        """Say the same of one that was done before, and took no time now."""
        self._number += 1
        self._left -= size or self._typical
        told = f"{self._number}/{self._total}"
        if self._number == self._total or not self._done:
            return told
        seconds = (time.monotonic() - self._started) / self._done * self._left
        return f"{told}, about {say_seconds(seconds)} left"


def say_seconds(seconds: float) -> str:
    """Return a time as people read it."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 5400 else f"{whole // 3600} h {whole % 3600 // 60} min"
