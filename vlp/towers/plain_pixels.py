"""Images as a tower would see them, but not normalised yet: where an attack may move what a camera could have seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float32
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL.Image import Image
from torch import Tensor

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

Preparation = Callable[[Image], Float32[Tensor, "3 h w"]]


def preparation(preprocess_cfg: Mapping[str, Any]) -> Preparation:
    """Return what open_clip does to an image of any size and mode before a tower sees it.

    Args:
        preprocess_cfg: open_clip's description; with `PLAIN` put over it, pixels stay in [0, 1].
    """
    prepare: Preparation = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
    return prepare


def part_shown(preprocess_cfg: Mapping[str, Any], width: int, height: int) -> tuple[float, float, float, float]:
    """Return which part of an image `preparation` leaves, but for the rounding of pixels.

    Returns:
        Left, top, right and bottom in shares of the image; below 0 and above 1 where it is filled up.
    """
    config = PreprocessCfg(**preprocess_cfg)
    if config.resize_mode == "squash":
        return 0.0, 0.0, 1.0, 1.0
    rows, columns = config.size if isinstance(config.size, tuple | list) else (config.size, config.size)
    scale = (min if config.resize_mode == "longest" else max)(columns / width, rows / height)
    across, down = columns / (scale * width), rows / (scale * height)
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


def normalised(pixels: Float32[Tensor, "n 3 h w"], preprocess_cfg: Mapping[str, Any]) -> Float32[Tensor, "n 3 h w"]:
    """Return plain pixels as a tower expects them, bit for bit as `preparation` gives them of the same image."""
    mean, std = _colours(pixels, preprocess_cfg)
    return (pixels - mean) / std


def plain(images: Float32[Tensor, "n 3 h w"], preprocess_cfg: Mapping[str, Any]) -> Float32[Tensor, "n 3 h w"]:
    """Return pixels in [0, 1], from normalised ones."""
    mean, std = _colours(images, preprocess_cfg)
    return images * std + mean


def _colours(like: Tensor, preprocess_cfg: Mapping[str, Any]) -> tuple[Float32[Tensor, "3 1 1"], ...]:
    config = PreprocessCfg(**preprocess_cfg)
    return tuple(like.new_tensor(values)[:, None, None] for values in (config.mean, config.std))
