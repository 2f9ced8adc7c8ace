"""A logit scale that moves more slowly once the temperature is low."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from vlp.ground import dist
from vlp.strategies.base import Strategy, strategies
from vlp.towers.dual import DualEncoder


@strategies.register("slow_temperature")
class SlowTemperature(Strategy):
    """Let the logit scale take a part of each step while the temperature is at or below a threshold.

    The step rule of FastCLIP-v3, Wei et al. 2024 (arXiv:2407.01445), whose rate falls to a third at 0.03: with
    `optimizer.groups: {scale: {match: [logit_scale], constant: true}}` for a rate of its own.

    Args:
        below: The temperature.
        factor: The part.

    Raises:
        ValueError: `below` is not positive, or `factor` outside (0, 1).
    """

    reads_images = False
    changes_captions = False

    def __init__(self, *, below: float = 0.03, factor: float = 1 / 3):
        if below <= 0 or not 0 < factor < 1:
            raise ValueError(f"below {below} must be positive, factor {factor} between 0 and 1")
        self.below = below
        self.factor = factor
        self.before = torch.zeros(1)

    def start(self, model: DualEncoder) -> None:
        self.before = dist.own_part(model.core.logit_scale).detach().clone()

    @torch.no_grad()
    def after_step(self, model: DualEncoder, taken: Bool[Tensor, ""] | None = None) -> None:
        scale = dist.own_part(model.core.logit_scale)
        self.before = self.before.to(scale.device)
        is_low = (-self.before).exp() <= self.below
        scale.copy_(torch.where(is_low, self.before.lerp(scale, self.factor), scale))
        self.before.copy_(scale)

    def state_dict(self) -> dict[str, Tensor]:
        return {"before": self.before}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.before.copy_(state["before"])
