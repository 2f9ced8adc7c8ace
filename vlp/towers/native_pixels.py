"""What an image of any size and mode becomes before a tower that reads it at its own aspect ratio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from open_clip.transform import PreprocessCfg
from PIL.Image import Image, Resampling
from torch import Tensor

from vlp.ground.patch_budget import PatchBudget

Packed = tuple[Float32[Tensor, "3 l p"], Int64[Tensor, " 2"]]


def native_preparation(preprocess_cfg: Mapping[str, Any], budget: PatchBudget) -> Callable[[Image], Packed]:
    """Return what resizes, packs and normalises an image, and says how many rows and columns of patches it has.

    As Pillow resizes: the image processor of transformers' SigLIP 2 gives the same.
    """
    config = PreprocessCfg(**preprocess_cfg)
    filtering = Resampling.BICUBIC if config.interpolation == "bicubic" else Resampling.BILINEAR
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))

    def prepare(image: Image) -> Packed:
        plain = image.convert("RGB")
        rows, columns = budget.grid(plain.height, plain.width)
        resized = plain.resize((columns * budget.patch, rows * budget.patch), filtering)
        packed = torch.from_numpy(budget.pack(np.asarray(resized))).permute(2, 0, 1)
        return (packed.float() / 255 - mean) / std, torch.tensor([rows, columns])

    return prepare
