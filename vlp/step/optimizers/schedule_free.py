"""AdamW without a schedule: what is evaluated is an average of all steps, kept along the way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlp.ground.types import RecipeError
from vlp.step.optimizers.base import Group, OptimizerKind, check_betas, check_range, optimizers


@optimizers.register("schedule_free")
class ScheduleFree(OptimizerKind):
    """Take gradients between the newest weights z and the average x of all of them; evaluate the average.

    Defazio et al. 2024 (arXiv:2405.15682), by the package schedulefree. Evaluations, checkpoints and exports have x.
    The weights y that train are kept beside the moments and not worked out from x and z, as the package's own switch
    does in place: that would round at every evaluation, and a run that evaluates would become another one. Wants
    `schedule.shape: constant`, whose warm-up it takes; a further average (`strategies.ema`) would be one of y.

    Args:
        betas: Share of x in the weights that gradients are taken at, and decay of the second moment.
        epsilon: Added to the root of the second moment.
    """

    counters = ("k", "weight_sum", "lr_max", "scheduled_lr")
    copies = ("z",)
    schedule_shapes = ("constant",)
    batch_norm = False

    def __init__(self, *, betas: tuple[float, float] = (0.9, 0.98), epsilon: float = 1e-6):
        check_betas(betas)
        check_range("betas", betas, holds=betas[0] > 0)
        check_range("epsilon", epsilon, holds=epsilon >= 0)
        self.betas = betas
        self.epsilon = epsilon

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        try:
            from schedulefree import AdamWScheduleFree
        except ImportError as error:
            raise RecipeError(
                "optimizer.type: schedule_free needs the package schedulefree: pip install 'vlp[optimizers]'"
            ) from error
        optimizer: torch.optim.Optimizer = AdamWScheduleFree(groups, betas=self.betas, eps=self.epsilon)
        optimizer.train()  # type: ignore[attr-defined]  # for good: averages are worked out beside
        return optimizer

    def moved(self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[tuple[Tensor, float]]:
        newest = optimizer.state[parameter]["z"]
        return [(parameter, 1 - self.betas[0]), (newest, 1.0)]  # y = (1 - beta) z + beta x, and x stays

    @torch.no_grad()
    def averages(self, optimizer: torch.optim.Optimizer) -> dict[nn.Parameter, Tensor]:
        share = 1 - 1 / self.betas[0]
        return {
            parameter: torch.lerp(parameter.detach(), optimizer.state[parameter]["z"], share)
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
