"""Muon of timm for the matrices of blocks, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Sequence

import timm.optim
import torch
from torch import nn

from vlp.step.optimizers.base import Group, OptimizerKind, check_betas, check_range, optimizers


@optimizers.register("muon")
class Muon(OptimizerKind):
    """Make the momentum of each matrix orthogonal before it becomes a step.

    Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with steps of the size of AdamW's, so that its rates and
    decays fit: Liu et al. 2025 (arXiv:2502.16982). Embeddings, projections, vectors, kernels of single channels and
    terms' own networks lie outside of what it is made for, the matrices of blocks, and move as under AdamW. A step
    costs five products of each matrix with itself; over sharded parameters these gather the matrices every time.

    Args:
        momentum: Decay of the momentum of matrices.
        betas: Decay of AdamW's two moments.
        epsilon: Added to the root of AdamW's second moment.
    """

    moments = 1.5  # one in blocks, two outside

    def __init__(self, *, momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.98), epsilon: float = 1e-6):
        check_range("momentum", momentum, holds=0 <= momentum < 1)
        check_betas(betas)
        check_range("epsilon", epsilon, holds=epsilon >= 0)
        self.momentum = momentum
        self.betas = betas
        self.epsilon = epsilon

    def extra(self, parameter: nn.Parameter, *, in_block: bool) -> Group:
        if in_block and parameter.ndim > 1:
            return {}
        return {"use_fallback": True, "eps": self.epsilon}

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        return timm.optim.Muon(groups, momentum=self.momentum, betas=self.betas, adjust_lr_fn="match_rms_adamw")
