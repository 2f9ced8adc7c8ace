"""Image towers that read each image at its own aspect ratio: NaFlexVit of timm, on packed patches and their grids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from open_clip.timm_model import TimmModel
from timm.models.naflexvit import NaFlexEmbeds, NaFlexVit
from torch import Tensor, nn

from vlp.ground.patch_budget import PatchBudget
from vlp.ground.types import RecipeError

SHARPNESS = -0.5  # of the cubic filter, where it is antialiased


class NativeTimm(TimmModel):
    """open_clip's adapter of a NaFlexVit that also reads images of several aspect ratios in one batch.

    Attributes:
        budget: How large images may be.
    """

    budget: PatchBudget

    def forward(self, x: Float[Tensor, "n 3 h w"], grids: Int64[Tensor, "n 2"] | None = None) -> Float[Tensor, "n d"]:
        """Embed packed images (`PatchBudget.pack`), or square ones of the tower's size where there are no grids.

        Raises:
            ValueError: Packed images without grids.
        """
        if grids is None:
            if x.shape[-2:] != (self.budget.square, self.budget.square):
                raise ValueError(f"{x.shape[-2]} x {x.shape[-1]} px without grids of patches: what packs them has some")
            rows: Tensor = super().forward(x)
            return rows
        found: Tensor = self.head(self.trunk(unpacked(x, grids, self.budget.patch)))
        return found


class NativeEmbeds(NaFlexEmbeds):
    """timm's embedding of patches, whose positions are interpolated for a whole batch without waiting for the device.

    As many products as patches of the learned grid: the weights of `torch.nn.functional.interpolate` with antialiasing
    along each axis, as transformers computes them for SigLIP 2.
    """

    def _apply_learned_naflex_pos_embed(self, x: Tensor, patch_coord: Tensor) -> None:
        learned: Tensor = self.pos_embed  # type: ignore[assignment]  # there, as `make_native` has seen
        height, width = learned.shape[1:3]
        sizes = patch_coord.amax(dim=1, keepdim=True) + 1
        with torch.autocast(x.device.type, enabled=False):
            rows, columns = (
                _weights(patch_coord[..., axis], sizes[..., axis], size, cubic=self.pos_embed_interp_mode == "bicubic")
                for axis, size in enumerate((height, width))
            )
            weights = (rows[..., :, None] * columns[..., None, :]).flatten(2)
            x += (weights @ learned.float().flatten(0, 2)).to(x.dtype)


def _weights(
    places: Int64[Tensor, "n k"], sizes: Int64[Tensor, "n 1"], learned: int, *, cubic: bool
) -> Float32[Tensor, "n k g"]:
    """Return how much each learned position counts at places of axes of some sizes."""
    scale = learned / sizes.float()
    centers = (places + 0.5) * scale - 0.5
    source = torch.arange(learned, device=places.device, dtype=torch.float32)
    far = ((source - centers[..., None]) / scale.clamp(min=1)[..., None]).abs()
    weights = _cubic(far) if cubic else (1 - far).clamp(min=0)
    return weights / weights.sum(dim=-1, keepdim=True)


def _cubic(far: Float32[Tensor, "*s"]) -> Float32[Tensor, "*s"]:
    """Return Keys' filter at distances."""
    near = ((SHARPNESS + 2) * far - (SHARPNESS + 3)) * far * far + 1
    tail = SHARPNESS * (((far - 5) * far + 8) * far - 4)
    return torch.where(far < 1, near, torch.where(far < 2, tail, torch.zeros_like(far)))


def unpacked(images: Float[Tensor, "n 3 l p"], grids: Int64[Tensor, "n 2"], patch: int) -> Mapping[str, Tensor]:
    """Return packed images as timm's NaFlexVit reads them: flat patches, their coordinates, and which are there."""
    patches = images.unflatten(2, (-1, patch)).permute(0, 2, 3, 4, 1).flatten(2)
    places = torch.arange(patches.shape[1], device=images.device)
    is_there = places < grids.prod(dim=1, keepdim=True)
    rows = places.div(grids[:, 1:], rounding_mode="floor")
    coordinates = torch.stack([rows, places - rows * grids[:, 1:]], dim=-1)
    return {"patches": patches, "patch_coord": coordinates * is_there[..., None], "patch_valid": is_there}


def make_native(visual: nn.Module, max_patches: int) -> PatchBudget:
    """Let an image tower read images of up to so many patches, each at its own aspect ratio.

    Raises:
        RecipeError: It is no NaFlexVit, or has other than learned positions that torch could interpolate.
    """
    trunk: Any = visual.trunk if isinstance(visual, TimmModel) else None
    if not isinstance(trunk, NaFlexVit):
        raise RecipeError(
            "image.max_patches: only timm's NaFlexVit reads images at their own aspect ratio: set image.name to one of "
            "naflexvit_*, such as naflexvit_base_patch16_siglip, or leave max_patches out"
        )
    embeds, (height, width) = trunk.embeds, trunk.embeds.patch_size
    plain = embeds.pos_embed_type == "learned" and embeds.pos_embed_antialias and trunk.rope is None
    known = embeds.pos_embed_interp_mode in ("bilinear", "bicubic") and embeds.channels_last and embeds.is_linear
    odd = embeds.pos_embed_ar_preserving or embeds.pos_embed_use_grid_sample or embeds.pos_embed_align_corners
    if not plain or not known or odd or height != width:
        raise RecipeError(
            "image.max_patches: this NaFlexVit has no positions on a learned grid, interpolated along each axis: use "
            "naflexvit_base_patch16_siglip, naflexvit_base_patch16_map or their like, or leave max_patches out"
        )
    if max_patches < 1:
        raise RecipeError(f"image.max_patches: {max_patches} must be at least 1")
    embeds.__class__ = NativeEmbeds
    trunk.use_key_only_attn_mask = True  # what padding says is read by nobody
    visual.__class__ = NativeTimm
    visual.budget = PatchBudget(height, max_patches)  # type: ignore[assignment]
    visual.image_size = (visual.budget.square,) * 2  # type: ignore[assignment]
    return visual.budget  # type: ignore[return-value]


def budget_of(visual: nn.Module) -> PatchBudget | None:
    """Return how large images may be that a tower reads at their own aspect ratio; None where all have one size."""
    return visual.budget if isinstance(visual, NativeTimm) else None
