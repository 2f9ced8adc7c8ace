"""What a tower knows before its projection into the shared space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer, text_global_pool
from torch import Tensor, nn

from vlp.ground.types import RecipeError

BORROWED = ("visual_projection", "image_projection", "vision_projection", "vision_proj")
"""What transformers calls the projection of images, by family."""


@contextmanager
def tapped(tower: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Collect what enters the projection in each forward of the block; the tower itself computes as ever.

    Args:
        tower: Image tower of open_clip, or a whole dual encoder of transformers.
        name: What to call it in messages.

    Raises:
        RecipeError: It has no projection, or one that is a part of its pooling.
    """
    found: list[Tensor] = []
    release = _tap_pool(tower, found) if isinstance(tower, VisionTransformer) else _tap_module(tower, name, found)
    try:
        yield found
    finally:
        release()


def _tap_pool(tower: VisionTransformer, found: list[Tensor]) -> Callable[[], None]:
    """Listen to the pooling: the projection behind it is a bare parameter, which no hook can see."""
    if tower.proj is None:
        raise RecipeError("features: the image tower has no projection; use features: projected")
    pool = tower._pool

    def listening(tokens: Tensor) -> tuple[Tensor, Tensor]:
        pooled, rest = pool(tokens)
        found.append(pooled)
        return pooled, rest

    tower.__dict__["_pool"] = listening  # an attribute of the instance, before the method of its class
    return lambda: tower.__dict__.pop("_pool")


def _tap_module(tower: nn.Module, name: str, found: list[Tensor]) -> Callable[[], None]:
    projection = _projection_of(tower)
    if projection is None:
        raise RecipeError(f"features: {name} has no projection of images to look behind; use features: projected")

    def listen(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(inputs[0])

    return projection.register_forward_pre_hook(listen).remove


def _projection_of(tower: nn.Module) -> nn.Module | None:
    if not isinstance(tower, TimmModel):
        return next((getattr(tower, name) for name in BORROWED if hasattr(tower, name)), None)
    for name in ("proj", "mlp"):
        if hasattr(tower.head, name):
            own: nn.Module = getattr(tower.head, name)
            return own
    classifier = tower.trunk.get_classifier() if not len(tower.head) else None
    return classifier if isinstance(classifier, nn.Linear) else None


def image_and_features(tower: nn.Module, images: Tensor, *grids: Tensor) -> Tensor:
    """Return rows of embeddings, [n, d], and behind them what they are projections of, [n, w]; nothing is normalised.

    Args:
        grids: Rows and columns of patches, for a tower that reads packed images.

    Raises:
        RecipeError: The tower has no projection to look behind.
    """
    with tapped(tower, "the image tower") as found:
        projected: Tensor = tower(images, *grids)
    return torch.cat([projected, found[0]], dim=1)


def text_and_features(tower: nn.Module, tokens: Tensor, *layout: Any) -> Tensor:
    """Return the same of captions, [n, d + v].

    Args:
        layout: For a tower that takes one, and runs over captions as it lays them out.
    """
    found: list[Tensor] = []

    def listen(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        found.append(inputs[0] if isinstance(tower, HFTextEncoder) else output)

    last: Any = tower.proj if isinstance(tower, HFTextEncoder) else tower.ln_final
    hook = last.register_forward_hook(listen)
    try:
        projected: Tensor = tower(tokens, *layout)
    finally:
        hook.remove()
    features = found[0]
    if features.dim() == 3:  # normalised before it is pooled
        features = text_global_pool(features, tokens, tower.pool_type, getattr(tower, "eos_id", None))
    return torch.cat([projected, features], dim=1)
