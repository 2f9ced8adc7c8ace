"""Lion of timm: the sign of one momentum."""

from __future__ import annotations

from collections.abc import Sequence

import timm.optim
import torch

from vlp.step.optimizers.base import Group, OptimizerKind, check_betas, optimizers


@optimizers.register("lion")
class Lion(OptimizerKind):
    """Move every weight by the same amount, in the direction of the sign of a momentum.

    Chen et al. 2023 (arXiv:2302.06675). Keeps half of what AdamW does. Its steps are larger: a learning rate of a third
    to a tenth of AdamW's, with a weight decay that is larger by as much, which is what the defaults are.

    Args:
        betas: Share of the momentum in the direction of a step, and decay of the momentum.
    """

    defaults = {"learning_rate": 1e-4, "weight_decay": 2.0}
    moments = 1.0

    def __init__(self, *, betas: tuple[float, float] = (0.9, 0.99)):
        check_betas(betas)
        self.betas = betas

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        return timm.optim.Lion(groups, betas=self.betas)
