"""A logit scale that stands still at first."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from vlp.ground import dist
from vlp.strategies.base import Strategy, strategies
from vlp.towers.dual import DualEncoder


@strategies.register("held_scale")
class HeldScale(Strategy):
    """Hold the logit scale at its first value for some steps, then let it train.

    Args:
        steps: How many steps hold it.
    """

    def __init__(self, *, steps: int = 1000):
        self.steps = steps
        self.first = torch.zeros(1)
        self.num_steps = torch.zeros((), dtype=torch.int64)

    def start(self, model: DualEncoder) -> None:
        self.first = model.core.logit_scale.detach().clone()

    @torch.no_grad()
    def after_step(self, model: DualEncoder, taken: Bool[Tensor, ""] | None = None) -> None:
        self.num_steps = self.num_steps + (1 if taken is None else taken.long())
        scale, first = dist.own_part(model.core.logit_scale), dist.own_part(self.first)
        scale.copy_(torch.where(self.num_steps.to(scale.device) <= self.steps, first, scale))

    def state_dict(self) -> dict[str, Tensor]:
        return {"first": self.first, "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.first.copy_(state["first"])
        self.num_steps.copy_(state["num_steps"])
