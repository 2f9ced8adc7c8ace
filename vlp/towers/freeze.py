"""Lock parameters by name pattern, as in locked-image tuning (LiT)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vlp.ground.patterns import check_matches, matches
from vlp.ground.types import RecipeError


def freeze(core: nn.Module, patterns: Sequence[str]) -> None:
    """Stop training the parameters whose name, or a group above it, matches a pattern.

    Zhai et al. 2022 lock the whole image tower: `visual` (arXiv:2111.07991).

    Args:
        patterns: Names such as `visual`, `text.token_embedding` or `visual.*.attn.*`; `*` also crosses dots.

    Raises:
        RecipeError: A pattern matches nothing; names the nearest group.
    """
    named = dict(core.named_parameters())
    check_matches(patterns, named, "model.freeze")
    for name, parameter in named.items():
        if matches(name, patterns):
            parameter.requires_grad_(False)


def freeze_batch_norm(core: nn.Module) -> None:
    """Stop training all batch norms, which then keep their statistics too.

    Raises:
        RecipeError: There is none.
    """
    norms = [module for module in core.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        raise RecipeError("model.lock_batch_norm: the towers have no batch norm: remove it")
    for norm in norms:
        norm.requires_grad_(False)


def rest_frozen_parts(core: nn.Module) -> None:
    """Put every module that has parameters, all of them locked, into evaluation mode."""
    for module in core.modules():
        if is_locked(module):
            module.eval()


def is_locked(module: nn.Module) -> bool:
    """Whether a module has parameters and none of them trains."""
    flags = [parameter.requires_grad for parameter in module.parameters()]
    return bool(flags) and not any(flags)
