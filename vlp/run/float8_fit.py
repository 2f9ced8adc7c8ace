"""What does not fit products in float8, said before anything is read."""

from __future__ import annotations

import torch

from vlp.ground.types import RecipeError
from vlp.recipe.train_section import TrainSection
from vlp.towers.float8 import Scales

CAPABILITY: dict[Scales, tuple[int, int]] = {"tensorwise": (8, 9), "rowwise": (9, 0)}
"""Compute capability of CUDA from which there are kernels."""


def check_float8(train: TrainSection, device: torch.device) -> None:
    """Refuse products in float8 where a device has none, or their results would be in another format.

    Raises:
        RecipeError: Names the key and a way out.
    """
    if train.float8 is None:
        return
    if train.precision != "bfloat16":
        raise RecipeError("train.float8: the rest of a block computes in bfloat16: set train.precision=bfloat16")
    needed = CAPABILITY[train.float8]
    found = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if found is None or found < needed:
        has = "is no GPU" if found is None else f"has {found[0]}.{found[1]}"
        raise RecipeError(
            f"train.float8: {train.float8} needs compute capability {needed[0]}.{needed[1]}, and this device {has}: "
            "leave it out"
        )
