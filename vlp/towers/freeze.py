"""Lock parameters by name pattern, as in locked-image tuning (LiT)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from vlp.registry import nearest
from vlp.types import RecipeError


def freeze(core: nn.Module, patterns: Sequence[str]) -> None:
    """Stop training the parameters whose name, or a group above it, matches a pattern.

    Zhai et al. 2022 lock the whole image tower: `visual` (arXiv:2111.07991).

    Args:
        patterns: Names such as `visual`, `text.token_embedding` or `visual.*.attn.*`; `*` also crosses dots.

    Raises:
        RecipeError: A pattern matches nothing; names the nearest group.
    """
    named = dict(core.named_parameters())
    for pattern in patterns:
        found = [name for name in named if any(fnmatchcase(group, pattern) for group in _groups(name))]
        if not found:
            groups = dict.fromkeys(group for name in named for group in _groups(name))
            top = ", ".join(dict.fromkeys(name.split(".")[0] for name in named))
            raise RecipeError(
                f"model.freeze: no parameter matches '{pattern}'{nearest(pattern, groups)} (parts: {top})"
            )
        for name in found:
            named[name].requires_grad_(False)


def rest_frozen_parts(core: nn.Module) -> None:
    """Put every module that has parameters, all of them locked, into evaluation mode."""
    for module in core.modules():
        if is_locked(module):
            module.eval()


def is_locked(module: nn.Module) -> bool:
    """Whether a module has parameters and none of them trains."""
    flags = [parameter.requires_grad for parameter in module.parameters()]
    return bool(flags) and not any(flags)


def _groups(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
