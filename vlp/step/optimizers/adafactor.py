"""Adafactor of timm, as big_vision has it: second moments by row and column, a first one of half the digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm.optim
import torch

from vlp.step.optimizers.base import Group, OptimizerKind, check_range, optimizers


@optimizers.register("adafactor")
class Adafactor(OptimizerKind):
    """Keep one second moment for each row and column of a matrix, and the first moment in bfloat16.

    Shazeer and Stern 2018 (arXiv:1804.04235) as Zhai et al. 2022, section 3.4, change it for vision transformers
    (arXiv:2106.04560), and as SigLIP was trained: it keeps a quarter of what AdamW does, and takes AdamW's learning
    rates.

    Args:
        momentum: Decay of the first moment.
        beta2_cap: Largest decay of the second moment, which grows from step to step; SigLIP has 0.95.
    """

    moments = 0.5

    def __init__(self, *, momentum: float = 0.9, beta2_cap: float = 0.999):
        for key, number in (("momentum", momentum), ("beta2_cap", beta2_cap)):
            check_range(key, number, holds=0 <= number < 1)
        self.momentum = momentum
        self.beta2_cap = beta2_cap

    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        optimizer = timm.optim.AdafactorBigVision(groups, momentum=self.momentum, beta2_cap=self.beta2_cap)
        optimizer.register_state_dict_post_hook(lambda _, state: _say(state, str(torch.bfloat16)))
        optimizer.register_load_state_dict_pre_hook(lambda _, state: _say(state, torch.bfloat16))
        return optimizer


def _say(state: dict[str, Any], number_format: object) -> None:
    """Write the number format of the first moment into a state in words: torch's checkpoints take nothing else."""
    for group in state["param_groups"]:
        group["momentum_dtype"] = number_format
