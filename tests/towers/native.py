"""A NaFlexVit small enough for tests, and its square twin; importing this registers them with timm."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

from tests.towers.tiny import SIGLIP_TEXT, tiny_model
from vlp.towers.dual import DualEncoder

PATCH, SIDE, WIDTH = 8, 4, 32
NATIVE: dict[str, Any] = {
    "type": "timm", "name": "naflexvit_tiny_siglip_for_tests", "pool": "map", "proj": "none", "max_patches": 16,
}  # fmt: skip
SQUARE: dict[str, Any] = {"type": "timm", "name": "square_twin_for_tests", "pool": "map", "proj": "none"}
SETTINGS: dict[str, Any] = {
    "embed_dim": WIDTH, "init_bias": -10.0, "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear",
}  # fmt: skip
SIZES = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
USUAL = {"input_size": (3, PATCH * SIDE, PATCH * SIDE), "mean": (0.5,) * 3, "std": (0.5,) * 3}

default_cfgs = generate_default_cfgs(
    {
        "naflexvit_tiny_siglip_for_tests.untrained": USUAL,
        "naflexvit_tiny_bicubic_for_tests.untrained": USUAL,
        "naflexvit_tiny_factorized_for_tests.untrained": USUAL,
        "square_twin_for_tests.untrained": {**USUAL, "fixed_input_size": True},
    }
)
__all__: list[str] = []


def _native(name: str, settings: dict[str, Any], mode: str = "bilinear", positions: str = "learned") -> NaFlexVit:
    grid = {"pos_embed": positions, "pos_embed_grid_size": (SIDE, SIDE), "pos_embed_interp_mode": mode}
    cfg = NaFlexVitCfg(**SIZES, **grid, act_layer="gelu_tanh")
    return build_model_with_cfg(NaFlexVit, name, pretrained=False, cfg=cfg, **settings)


@register_model
def naflexvit_tiny_siglip_for_tests(pretrained: bool = False, **settings: Any) -> NaFlexVit:
    assert not pretrained
    return _native("naflexvit_tiny_siglip_for_tests", settings)


@register_model
def naflexvit_tiny_bicubic_for_tests(pretrained: bool = False, **settings: Any) -> NaFlexVit:
    assert not pretrained
    return _native("naflexvit_tiny_bicubic_for_tests", settings, mode="bicubic")


@register_model
def naflexvit_tiny_factorized_for_tests(pretrained: bool = False, **settings: Any) -> NaFlexVit:
    assert not pretrained
    return _native("naflexvit_tiny_factorized_for_tests", settings, positions="factorized")


@register_model
def square_twin_for_tests(pretrained: bool = False, **settings: Any) -> timm.models.VisionTransformer:
    assert not pretrained
    fixed = {"act_layer": "gelu_tanh", "img_size": PATCH * SIDE, "class_token": False, "global_pool": "map"}
    twin = timm.models.VisionTransformer
    return build_model_with_cfg(twin, "square_twin_for_tests", pretrained=False, **{**SIZES, **fixed, **settings})


def native_model(image: dict[str, Any] = NATIVE, text: dict[str, Any] = SIGLIP_TEXT, **settings: Any) -> DualEncoder:
    """Return a small model whose images keep their aspect ratio, with the same weights every time."""
    return tiny_model(image=image, text=text, **{**SETTINGS, **settings})


def pictures() -> list[Image.Image]:
    """Return images from square to a thin strip, smaller and larger than the tower's, one of them gray."""
    numbers = np.random.default_rng(5)
    shapes = [(32, 32), (40, 90), (101, 33), (7, 250), (3, 2), (64, 64)]
    images = [Image.fromarray(numbers.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]
    return [*images, images[1].convert("L")]


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """Move every weight a little, what begins as zeros and ones too."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model
