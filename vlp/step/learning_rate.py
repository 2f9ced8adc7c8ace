"""How the learning rate changes over a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field

from vlp.step.optimizer import BASE_RATE, CONSTANT, FIRST_STEP

Share = Annotated[float, Field(ge=0, le=1)]


def learning_rate_factor(
    num_steps: int,
    batch_size: int = 1,
    *,
    warmup_steps: Annotated[int, Field(ge=0)] | None = None,
    warmup_share: Share = 0.05,
    shape: Literal["cosine", "linear", "constant", "cooldown", "inverse_sqrt"] = "cosine",
    final_factor: Annotated[float, Field(ge=0)] = 0.0,
    cooldown_share: Share = 0.2,
    timescale: Annotated[int, Field(ge=1)] = 10_000,
    base_batch: Annotated[int, Field(ge=1)] | None = None,
) -> Callable[[int], float]:
    """Return the factor of the learning rate at each step.

    Args:
        num_steps: Length of the training.
        batch_size: Pairs in a batch of the whole job.
        warmup_steps: Steps of linear warm-up; replaces `warmup_share`.
        warmup_share: Warm-up as a share of the training.
        shape: After the warm-up: half a cosine, a line, flat, flat with a linear end, or one over the square root of
            the steps with a linear end (Zhai et al. 2022, arXiv:2106.04560), which can be prolonged before its end.
        final_factor: Factor at the last step; a flat shape does not end.
        cooldown_share: Share of the training in the linear end (cooldown, inverse_sqrt).
        timescale: Steps after the warm-up at which inverse_sqrt has fallen to one over the square root of 2.
        base_batch: Pairs of the batch that `optimizer.learning_rate` was chosen at; with another the rate changes by
            the square root of their ratio, as Adam's should (Malladi et al. 2022, arXiv:2205.10287). Null takes it as
            it is.
    """
    warmup = warmup_steps if warmup_steps is not None else round(warmup_share * num_steps)
    cooldown = max(1, round(cooldown_share * num_steps))

    scale = 1.0 if base_batch is None else math.sqrt(batch_size / base_batch)

    def factor(step: int) -> float:
        return scale * shaped(step)

    def shaped(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if shape == "constant":
            return 1.0
        if shape in ("cooldown", "inverse_sqrt"):
            left = min(1.0, (num_steps - step) / cooldown)
            height = 1.0 if shape == "cooldown" else (1 + (step - warmup) / timescale) ** -0.5
            return final_factor + (height - final_factor) * left
        done = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        left = 1 - done if shape == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return final_factor + (1 - final_factor) * left

    return factor


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float, step: int) -> None:
    """Scale every group's peak learning rate by `factor`, unless it is constant; what does not move yet has none."""
    for group in optimizer.param_groups:
        rate = group[BASE_RATE] * (1.0 if group.get(CONSTANT) else factor)
        group["lr"] = rate if step >= group.get(FIRST_STEP, 0) else 0.0
