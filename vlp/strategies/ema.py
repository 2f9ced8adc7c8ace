"""A moving average of the weights, which usually scores better than the weights themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from vlp.strategies.base import Strategy, strategies
from vlp.towers.dual import DualEncoder


@strategies.register("ema")
class Ema(Strategy):
    """Average the weights of the last steps exponentially (Polyak and Juditsky 1992).

    Args:
        decay: Weight of the past at each step.
        warmup: Use min(decay, (1 + step) / (10 + step)), so that early averages forget the random start.
    """

    def __init__(self, *, decay: float = 0.999, warmup: bool = True):
        self.decay = decay
        self.warmup = warmup
        self.average: dict[str, Tensor] = {}
        self.num_steps = torch.zeros((), dtype=torch.int64)

    def start(self, model: DualEncoder) -> None:
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def after_step(self, model: DualEncoder) -> None:
        self.num_steps += 1
        steps = int(self.num_steps)
        decay = min(self.decay, (1 + steps) / (10 + steps)) if self.warmup else self.decay
        current = model.state_dict()
        floats = [name for name, value in self.average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in floats], [current[name].detach() for name in floats], 1 - decay
        )
        for name in self.average.keys() - set(floats):
            self.average[name].copy_(current[name])

    def weights(self) -> dict[str, Tensor]:
        return self.average

    def state_dict(self) -> dict[str, Tensor]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.num_steps.copy_(state["num_steps"])
