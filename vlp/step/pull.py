"""Weight decay towards the weights that training began with, against forgetting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlp.ground.dist import own_part
from vlp.step.optimizer import BASE_RATE, CONSTANT, FIRST_STEP, PULL
from vlp.step.optimizers.base import OptimizerKind

START = "start"


class PullToStart(torch.optim.Optimizer):
    """Moves p to p - rate * decay * (p - p0) before each step of the optimizer proper.

    The penalty of L2-SP (Li et al. 2018, arXiv:1802.01483), decoupled from the gradient as in AdamW. p0 is the state of
    this optimizer, so that checkpoints keep it and shards of parameters have shards of it. Where `found_inf` is set the
    pull has no length, and nothing moves.

    Args:
        kind: Says what moves with a parameter.
        optimizer: The optimizer proper.
        groups: As the optimizer's, of what is pulled.
    """

    def __init__(self, kind: OptimizerKind, optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]):
        super().__init__(groups, {})
        self._kind = kind
        self._moves = optimizer
        for parameter in self._parameters():
            self.state[parameter][START] = parameter.detach().clone()

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Pull once."""
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        taken = torch.ones(()) if found_inf is None else 1 - found_inf
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moving:
                continue
            here = [own_part(parameter.detach()) for parameter in moving]
            ways = torch._foreach_sub([own_part(self.state[parameter][START]) for parameter in moving], here)
            torch._foreach_mul_(ways, group["lr"] * group["weight_decay"] * taken)
            moves = [self._kind.moved(self._moves, parameter) for parameter in moving]
            torch._foreach_add_(
                [own_part(tensor.detach()) for each in moves for tensor, _ in each],
                [way if part == 1.0 else way * part for way, each in zip(ways, moves, strict=True) for _, part in each],
            )


def build_pull(kind: OptimizerKind, optimizer: torch.optim.Optimizer) -> PullToStart | None:
    """Return what pulls the parameters whose groups ask for it; None where none does."""
    shared = ("params", "lr", BASE_RATE, FIRST_STEP, CONSTANT)  # its rate is that of the group at every step
    groups = [
        {name: group[name] for name in shared if name in group} | {"weight_decay": group[PULL]}
        for group in optimizer.param_groups
        if PULL in group
    ]
    return PullToStart(kind, optimizer, groups) if groups else None
