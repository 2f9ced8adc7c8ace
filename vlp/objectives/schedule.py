"""Weights that change over training."""

from __future__ import annotations

import math
from typing import Literal


class Schedule:
    """A number per step: `start` until `first_step`, `end` from `last_step`, a curve between.

    Args:
        start: Value before and at `first_step`.
        end: Value from `last_step` on; None keeps `start` for ever.
        first_step: Where the change begins.
        last_step: Where the change ends.
        shape: Straight line, or half a cosine.

    Raises:
        ValueError: `end` without a `last_step` after `first_step`, or steps without `end`.
    """

    def __init__(
        self,
        *,
        start: float,
        end: float | None = None,
        first_step: int = 0,
        last_step: int = 0,
        shape: Literal["linear", "cosine"] = "linear",
    ):
        if end is not None and last_step <= first_step:
            raise ValueError(f"last_step {last_step} must come after first_step {first_step} when end is set")
        if end is None and (first_step or last_step):
            raise ValueError("first_step and last_step have no effect without end: set end or leave them out")
        self.start = start
        self.end = start if end is None else end
        self.first_step = first_step
        self.last_step = last_step
        self.shape = shape

    @property
    def begin(self) -> int:
        """The first step at which there is something: `first_step` where the value is 0 before, else 0."""
        return self.first_step if self.start == 0 else 0

    def __call__(self, step: int) -> float:
        """Return the value at a step, counted from 0."""
        if step <= self.first_step:
            return self.start
        if step >= self.last_step:
            return self.end
        progress = (step - self.first_step) / (self.last_step - self.first_step)
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress
