"""A strategy that changes with the steps that were taken."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from vlp.strategies.base import Strategy
from vlp.towers.dual import DualEncoder


class FirstSteps(Strategy):
    """Counts the steps that were taken, and knows when the first ones are over.

    Args:
        steps: How many these are.

    Raises:
        ValueError: There are none.
    """

    def __init__(self, *, steps: int):
        if steps < 1:
            raise ValueError(f"a count of {steps} steps must be at least 1; without it, leave the strategy out")
        self.steps = steps
        self.num_steps = torch.zeros((), dtype=torch.int64)
        self._most_steps = 0  # that may have been taken; known without asking the device
        self._is_over = False

    def is_over(self) -> bool:
        """Whether enough steps were taken; waits for the device once, and once more for each that was skipped."""
        if not self._is_over and self._most_steps >= self.steps:
            self._most_steps = int(self.num_steps)
            self._is_over = self._most_steps >= self.steps
        return self._is_over

    def after_step(self, _model: DualEncoder, taken: Bool[Tensor, ""] | None = None) -> None:
        self._most_steps += 1
        self.num_steps = self.num_steps + (1 if taken is None else taken.long())

    def state_dict(self) -> dict[str, Tensor]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.num_steps.copy_(state["num_steps"])
        self._most_steps, self._is_over = int(self.num_steps), False
