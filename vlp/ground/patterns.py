"""Names of parameters as recipes write them: one way for what is locked and for what the optimizer treats apart."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError

WRAPPER = "core."  # the two towers inside the model that trains


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a parameter's name, or a group above it, matches one of the patterns; `*` also crosses dots.

    Args:
        name: Such as `visual.conv1.weight`; the towers' wrapper in front is optional on both sides.
        patterns: Such as `visual`, `text.token_embedding`, `visual.*.attn.*` or `logit_scale`.
    """
    plain = name.removeprefix(WRAPPER)
    groups = (*_groups(plain), *(f"{WRAPPER}{group}" for group in _groups(plain)))
    return any(fnmatchcase(group, pattern) for pattern in patterns for group in groups)


def check_matches(patterns: Iterable[str], names: Iterable[str], key: str) -> None:
    """Refuse a pattern that matches none of the names.

    Raises:
        RecipeError: Names the key, the nearest group, and the parts there are.
    """
    plain = [name.removeprefix(WRAPPER) for name in names]
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in plain):
            groups = dict.fromkeys(group for name in plain for group in _groups(name))
            top = ", ".join(dict.fromkeys(name.split(".")[0] for name in plain))
            raise RecipeError(f"{key}: no parameter matches '{pattern}'{nearest(pattern, groups)} (parts: {top})")


def _groups(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
