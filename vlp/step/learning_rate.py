"""How the learning rate changes over a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch

from vlp.step.optimizer import BASE_RATE, FIRST_STEP


def learning_rate_factor(
    num_steps: int,
    *,
    warmup_steps: int | None = None,
    warmup_share: float = 0.05,
    shape: Literal["cosine", "constant", "cooldown"] = "cosine",
    final_factor: float = 0.0,
    cooldown_share: float = 0.2,
) -> Callable[[int], float]:
    """Return the factor of the learning rate at each step.

    Args:
        num_steps: Length of the training.
        warmup_steps: Steps of linear warm-up; replaces `warmup_share`.
        warmup_share: Warm-up as a share of the training.
        shape: After the warm-up: half a cosine, flat, or flat with a linear end.
        final_factor: Factor at the last step (cosine, cooldown).
        cooldown_share: Share of the training in the linear end.
    """
    warmup = warmup_steps if warmup_steps is not None else round(warmup_share * num_steps)
    cooldown = max(1, round(cooldown_share * num_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if shape == "constant":
            return 1.0
        if shape == "cooldown":
            left = min(1.0, (num_steps - step) / cooldown)
            return final_factor + (1 - final_factor) * left
        done = (step - warmup) / max(1, num_steps - warmup)
        return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float, step: int) -> None:
    """Scale every group's peak learning rate by `factor`; what does not move yet at this step has a rate of zero."""
    for group in optimizer.param_groups:
        group["lr"] = group[BASE_RATE] * factor if step >= group.get(FIRST_STEP, 0) else 0.0
