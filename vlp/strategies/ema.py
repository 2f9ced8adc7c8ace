"""A moving average of the weights, which usually scores better than the weights themselves."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from vlp.ground import dist
from vlp.ground.types import Batch
from vlp.strategies.base import Strategy, strategies
from vlp.towers.drift import weight_drift
from vlp.towers.dual import DualEncoder


@strategies.register("ema")
class Ema(Strategy):
    """Average the weights of the last steps exponentially (Polyak and Juditsky 1992).

    The log has `gauge/LABEL/weight_drift`: how far the average lies from the weights, as a share of their norm.

    Args:
        decay: Weight of the past at each step.
        warmup: Use min(decay, (1 + step) / (10 + step)), so that early averages forget the random start.
        base_batch: Pairs of the batch that `decay` was chosen at; with another batch the past loses as much weight for
            each pair (Busbridge et al. 2023, arXiv:2307.13813). Null takes `decay` as it is.

    Raises:
        ValueError: A `decay` outside [0, 1], or a `base_batch` below 1.
    """

    reads_images = False
    changes_captions = False

    def __init__(self, *, decay: float = 0.999, warmup: bool = True, base_batch: int | None = None):
        if not 0 <= decay <= 1:
            raise ValueError(f"decay {decay} must lie in [0, 1]: it is the weight of the past")
        if base_batch is not None and base_batch < 1:
            raise ValueError(f"base_batch {base_batch} must be at least 1")
        self.decay = decay
        self.warmup = warmup
        self.base_batch = base_batch
        self._share = 1.0  # of the base batch that a step takes
        self.average: dict[str, Tensor] = {}
        self.num_steps = torch.zeros((), dtype=torch.int64)

    def start(self, model: DualEncoder) -> None:
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def before_forward(self, batch: Batch) -> Batch:
        if self.base_batch is not None:
            self._share = len(batch) * dist.world_size() / self.base_batch
        return batch

    @torch.no_grad()
    def after_step(self, model: DualEncoder, taken: Bool[Tensor, ""] | None = None) -> None:
        moved = torch.ones_like(self.num_steps) if taken is None else taken.long()
        self.num_steps = self.num_steps + moved
        newest = self._newest_share() * moved
        current = model.state_dict()
        floats = [name for name, value in self.average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [dist.own_part(self.average[name]) for name in floats],
            [dist.own_part(current[name].detach()) for name in floats],
            [newest.to(self.average[name].dtype) for name in floats],
        )
        for name in self.average.keys() - set(floats):
            self.average[name].copy_(current[name])

    def _newest_share(self) -> Float64[Tensor, ""]:
        """Return the weight of the newest weights; on the device, which is not waited for."""
        steps = self.num_steps.double()
        full = self.decay**self._share
        decay = ((1 + steps) / (10 + steps)).clamp(max=full) if self.warmup else full
        return 1 - decay * torch.ones_like(steps)

    def weights(self) -> dict[str, Tensor]:
        return self.average

    def gauges(self, model: DualEncoder) -> dict[str, float]:
        return weight_drift(model.state_dict(), self.average)

    def state_dict(self) -> dict[str, Tensor]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.num_steps.copy_(state["num_steps"])
