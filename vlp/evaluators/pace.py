"""How far a list of tasks has come, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Sequence

from vlp.evaluators.base import Task


class Pace:
    """How long the rest will take, judged by the samples that were done.

    Args:
        tasks: Those that are to run.
        num_done: How many others were done before.
    """

    def __init__(self, tasks: Sequence[Task], *, num_done: int = 0):
        known = [task.data.samples for task in tasks if task.data.samples]
        self._typical = sum(known) / len(known) if known else 1.0
        self._left = sum(map(self._size, tasks))
        self._done = 0.0
        self._number, self._total = num_done, num_done + len(tasks)
        self._started = time.monotonic()

    def after(self, task: Task) -> str:
        """Say which task this was, of how many, and how long the others will take."""
        self._number += 1
        self._done += self._size(task)
        self._left -= self._size(task)
        told = f"{self._number}/{self._total}"
        seconds = (time.monotonic() - self._started) / self._done * self._left
        return f"{told}, about {say_seconds(seconds)} left" if self._number < self._total else told

    def _size(self, task: Task) -> float:
        return task.data.samples or self._typical


def say_seconds(seconds: float) -> str:
    """Return a time as people read it."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 5400 else f"{whole // 3600} h {whole % 3600 // 60} min"
