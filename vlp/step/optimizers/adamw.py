"""AdamW of torch, in one fused kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vlp.step.optimizers.base import Group, OptimizerKind, check_betas, check_range, optimizers


@optimizers.register("adamw")
class AdamW(OptimizerKind):
    """Adam with decoupled weight decay, what CLIP was trained with.

    Loshchilov and Hutter 2019 (arXiv:1711.05101).

    Args:
        betas: Decay of the two moments; CLIP lowers the second to 0.98.
        epsilon: Added to the root of the second moment.
    """

    skips = True

    def __init__(self, *, betas: tuple[float, float] = (0.9, 0.98), epsilon: float = 1e-6):
        check_betas(betas)
        check_range("epsilon", epsilon, holds=epsilon >= 0)
        self.betas = betas
        self.epsilon = epsilon

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, betas=self.betas, eps=self.epsilon, fused=True)
