"""Vision transformers that see a token in place of some patches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from vlp.ground.types import RecipeError


class HiddenPatches:
    """Puts a token where patches are hidden, behind the patch embedding and before positions.

    Args:
        visual: An image tower, which is watched from now on, and does as before while nothing is hidden.

    Raises:
        RecipeError: It does not cut images into patches by one layer.
    """

    def __init__(self, visual: nn.Module):
        self._now: tuple[Tensor, Tensor] | None = None
        _patch_layer(visual).register_forward_hook(self._put)

    @contextmanager
    def behind(self, token: Float[Tensor, " w"], places: Bool[Tensor, "n p"]) -> Iterator[None]:
        """Let the tower see the token at these patches, counted row by row, of the images that it is shown."""
        self._now = token, places
        try:
            yield
        finally:
            self._now = None

    def _put(self, layer: nn.Module, _inputs: tuple[Tensor, ...], patches: Tensor) -> Tensor | None:
        if self._now is None:
            return None
        token, places = self._now
        token = token.to(patches.dtype)
        if isinstance(layer, nn.Conv2d):  # [n, w, rows, columns]
            return torch.where(places.view(-1, 1, *patches.shape[2:]), token[:, None, None], patches)
        return torch.where(places.view(*patches.shape[:-1], 1), token, patches)


def _patch_layer(visual: nn.Module) -> nn.Module:
    if isinstance(visual, VisionTransformer):
        return visual.conv1
    if isinstance(visual, TimmModel) and isinstance(visual.trunk, TimmVisionTransformer):
        layer: nn.Module = visual.trunk.patch_embed
        return layer
    raise RecipeError(
        f"model.image: a {type(getattr(visual, 'trunk', visual)).__name__} has no patches that a token could stand in "
        "for, as objective.masked_prediction needs: use a vision transformer (type: vit, or one of timm), or leave the "
        "term out"
    )
