"""LAMB of timm: Adam whose steps are as long as the weights of a layer allow."""

from __future__ import annotations

from collections.abc import Sequence

import timm.optim
import torch
from torch import nn

from vlp.step.optimizers.base import Group, OptimizerKind, check_betas, check_range, optimizers


@optimizers.register("lamb")
class Lamb(OptimizerKind):
    """Scale the step of each matrix to the norm of the matrix, for very large batches.

    You et al. 2020 (arXiv:1904.00962). Vectors move as under Adam. Weight decay counts as a part of the step that is
    scaled; where it pulls towards the start (`decay_towards`) it is decoupled.

    Args:
        betas: Decay of the two moments.
        epsilon: Added to the root of the second moment.
    """

    counters = ("step",)

    def __init__(self, *, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-6):
        check_betas(betas)
        check_range("epsilon", epsilon, holds=epsilon >= 0)
        self.betas = betas
        self.epsilon = epsilon

    def extra(self, parameter: nn.Parameter, *, in_block: bool) -> Group:
        return {"always_adapt": parameter.ndim > 1}  # also where nothing decays

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        # train.clip_gradient_norm clips already
        return timm.optim.Lamb(groups, betas=self.betas, eps=self.epsilon, max_grad_norm=None)
