"""Position embeddings of vision transformers for images of other sizes, interpolated on the way in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.nn import functional

MARK = "takes_any_size"


@dataclass
class Positions:
    """The position embeddings of a tower, and how they lie.

    Args:
        owner: The module that has them.
        name: What it calls them.
        num_prefix: Rows before those of the grid, such as that of a class token.
        grid: Patches of a whole image, by height and width.
        patch: Height and width of one.
        maps: What has been worked out, by grid and device.
    """

    owner: nn.Module
    name: str
    num_prefix: int
    grid: tuple[int, int]
    patch: tuple[int, int]
    maps: dict[Any, Tensor] = field(default_factory=dict)

    def for_images(self, images: Tensor) -> Tensor | None:
        """Return the embeddings for images of this size; None where the tower's own fit.

        Raises:
            ValueError: The images are not made of whole patches.
        """
        sides = (images.shape[-2], images.shape[-1])
        if any(side % patch for side, patch in zip(sides, self.patch, strict=True)):
            raise ValueError(f"{sides[0]} x {sides[1]} px are not made of whole patches of {self.patch}")
        grid = (sides[0] // self.patch[0], sides[1] // self.patch[1])
        if grid == self.grid:
            return None
        whole: Tensor = getattr(self.owner, self.name)
        place = (grid, whole.device)
        if place not in self.maps:
            self.maps[place] = interpolation(self.grid, grid).to(whole.device)
        with torch.autocast(whole.device.type, enabled=False):
            rows = whole.flatten(0, -2).float()
            prefix, patches = rows[: self.num_prefix], rows[self.num_prefix :]
            return torch.cat([prefix, self.maps[place] @ patches]).view(*whole.shape[:-2], -1, whole.shape[-1])


def interpolation(old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Return the matrix that takes rows of one grid to rows of another, as weights are resized when they are read.

    A matrix because it is the same at each step, and its gradient the same in each run, which that of torch's
    interpolation is not on a GPU.
    """
    cells = old[0] * old[1]
    spikes = torch.eye(cells).view(1, cells, *old)
    spread = functional.interpolate(spikes, size=new, mode="bicubic", antialias=True, align_corners=False)
    return spread.flatten(2)[0].T.contiguous()


def positions_of(visual: nn.Module) -> Positions | None:
    """Return the position embeddings of a vision transformer of open_clip or timm; None of any other tower."""
    if isinstance(visual, VisionTransformer):
        return Positions(visual, "positional_embedding", 1, visual.grid_size, visual.patch_size)
    trunk = visual.trunk if isinstance(visual, TimmModel) else None
    if not isinstance(trunk, TimmVisionTransformer) or trunk.pos_embed is None or trunk.dynamic_img_size:
        return None
    num_prefix = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
    trunk.patch_embed.strict_img_size = False
    return Positions(trunk, "pos_embed", num_prefix, trunk.patch_embed.grid_size, trunk.patch_embed.patch_size)


def take_any_size(visual: nn.Module) -> None:
    """Let an image tower take images of other sizes, where it is a vision transformer whose positions are known.

    Asked for a second time, it does nothing.
    """
    positions = None if MARK in visual.__dict__ else positions_of(visual)
    if positions is None:
        return
    visual.__dict__[MARK] = True
    owner, name = positions.owner, positions.name
    own: list[Any] = []

    def exchange(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        others = positions.for_images(inputs[0])
        if others is not None:
            own.append(owner._parameters[name])
            owner._parameters[name] = others  # type: ignore[assignment]  # no parameter, but made of one

    def put_back(*_: Any) -> None:
        if own:
            owner._parameters[name] = own.pop()

    visual.register_forward_pre_hook(exchange)
    visual.register_forward_hook(put_back, always_call=True)
