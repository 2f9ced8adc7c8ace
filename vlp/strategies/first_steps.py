"""Strategies that change with the steps that were taken."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from vlp.strategies.base import Strategy
from vlp.towers.dual import DualEncoder


class TakenSteps(Strategy):
    """Counts the steps that were taken."""

    def __init__(self) -> None:
        self.num_steps = torch.zeros((), dtype=torch.int64)
        self._most_steps = 0  # that may have been taken; known without asking the device
        self._fewest_steps = 0  # that were taken, as far as the device was asked

    def reached(self, steps: int) -> bool:
        """Whether so many were taken; waits for the device once, and once more for each that was skipped."""
        if self._fewest_steps < steps <= self._most_steps:
            self._fewest_steps = self._most_steps = int(self.num_steps)
        return self._fewest_steps >= steps

    def after_step(self, _model: DualEncoder, taken: Bool[Tensor, ""] | None = None) -> None:
        self._most_steps += 1
        self.num_steps = self.num_steps + (1 if taken is None else taken.long())

    def state_dict(self) -> dict[str, Tensor]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.num_steps.copy_(state["num_steps"])
        self._fewest_steps = self._most_steps = int(self.num_steps)


class FirstSteps(TakenSteps):
    """Knows when the first steps are over.

    Args:
        steps: How many these are.

    Raises:
        ValueError: There are none.
    """

    def __init__(self, *, steps: int):
        if steps < 1:
            raise ValueError(f"a count of {steps} steps must be at least 1; without it, leave the strategy out")
        super().__init__()
        self.steps = steps

    def is_over(self) -> bool:
        """Whether enough steps were taken."""
        return self.reached(self.steps)
