"""What a recipe may name as its optimizer, and what the rest of a run must know of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlp.ground.registry import Registry
from vlp.ground.types import RecipeError

Group = dict[str, Any]


class OptimizerKind(ABC):
    """One optimizer of a library; settings that all of them share stand in `build_optimizer`.

    Attributes:
        defaults: Shared settings whose usual values are others here.
        moments: Numbers that it keeps for each trained one, in float32.
        skips: Whether its kernels read `found_inf` and leave everything as it was where that is set; what does not is
            looked after by `TakenBack`.
        counters: Entries of its parameter groups that count or remember, and belong into a checkpoint.
        copies: Entries of its state that begin as the weights; the others begin at zero.
        schedule_shapes: Shapes of `schedule` that make sense with it; none stands for all.
        batch_norm: Whether the weights to evaluate are those that batch norm has statistics of.
    """

    defaults: ClassVar[Mapping[str, float]] = {}
    moments: ClassVar[float] = 2.0
    skips: ClassVar[bool] = False
    counters: ClassVar[tuple[str, ...]] = ()
    copies: ClassVar[tuple[str, ...]] = ()
    schedule_shapes: ClassVar[tuple[str, ...]] = ()
    batch_norm: ClassVar[bool] = True

    @abstractmethod
    def build(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        """Return the optimizer of groups that carry a rate and a decay each."""

    def extra(self, parameter: nn.Parameter, *, in_block: bool) -> Group:
        """Return what the parameter's group says beside its rate and decay.

        Args:
            in_block: Whether it belongs to a block of a tower.
        """
        return {}

    def moved(self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[tuple[Tensor, float]]:
        """Return what moves where a parameter is moved from outside, and how much of the way each goes."""
        return [(parameter, 1.0)]

    def averages(self, optimizer: torch.optim.Optimizer) -> dict[nn.Parameter, Tensor]:
        """Return weights to evaluate instead of those that train, where the optimizer has some."""
        return {}


def check_range(key: str, number: object, *, holds: bool) -> None:
    """Refuse a setting of an optimizer that is out of its range.

    Raises:
        RecipeError: It does not hold.
    """
    if not holds:
        raise RecipeError(
            f"optimizer.{key}: {number} is out of range: numbers are at least 0, betas and momentum below 1, "
            "layer_decay above 0 and at most 1"
        )


def check_betas(betas: tuple[float, ...]) -> None:
    """Refuse decays of moments that are none.

    Raises:
        RecipeError: One is outside [0, 1).
    """
    check_range("betas", betas, holds=all(0 <= beta < 1 for beta in betas))


optimizers: Registry[OptimizerKind] = Registry("optimizer", "vlp.step.optimizers")
