"""Weights of square vision transformers of timm, as its NaFlexVit names and lays them out, and the way back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from timm.models.naflexvit import NaFlexVit
from torch import Tensor, nn

from vlp.towers.resized_positions import interpolation

TRUNK = "visual.trunk."
PATCHES, POSITIONS = f"{TRUNK}patch_embed.proj.", f"{TRUNK}pos_embed"
NATIVE_PATCHES, NATIVE_POSITIONS = f"{TRUNK}embeds.proj.", f"{TRUNK}embeds.pos_embed"


def fit_native(visual: nn.Module, state: dict[str, Tensor]) -> str | None:
    """Rename and reshape what a NaFlexVit has of its own, in place; return what was done to positions, if anything.

    Raises:
        ValueError: The positions are no square.
    """
    trunk = getattr(visual, "trunk", None)
    if not isinstance(trunk, NaFlexVit):
        return None
    for name in [name for name in state if name.startswith(PATCHES)]:
        value = state.pop(name)
        kernel = value.permute(0, 2, 3, 1).flatten(1) if value.ndim == 4 else value
        state[f"{NATIVE_PATCHES}{name.removeprefix(PATCHES)}"] = kernel
    if POSITIONS not in state:
        return None
    rows = state.pop(POSITIONS)[0]
    positions: Any = trunk.embeds.pos_embed
    side, wanted = math.isqrt(len(rows)), tuple(positions.shape[1:3])
    if side * side != len(rows):
        raise ValueError(f"{len(rows)} positions are no square")
    if wanted != (side, side):
        rows = interpolation((side, side), wanted) @ rows.float()
    state[NATIVE_POSITIONS] = rows.view(1, *wanted, -1)
    return f"its {side * side} positions interpolated to {wanted[0] * wanted[1]}" if wanted != (side, side) else None


def from_native(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of a NaFlexVit under the names of a square vision transformer; patches stay flat."""
    found = {name.replace(NATIVE_PATCHES, PATCHES): value for name, value in state.items()}
    if NATIVE_POSITIONS in found:
        found[POSITIONS] = found.pop(NATIVE_POSITIONS).flatten(1, 2)
    return found
