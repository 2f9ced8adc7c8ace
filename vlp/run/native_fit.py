"""What does not fit images that keep their aspect ratio in a recipe, said before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vlp.ground.types import RecipeError
from vlp.recipe.schema import DataSection
from vlp.strategies.base import Strategy
from vlp.towers.dual import DualEncoder
from vlp.towers.learned_tokens import has_image_prompts
from vlp.towers.pixel_autoencoder import purifier_of

NEIGHBOURS = ("affine", "blur", "erase", "contrast")
"""Changes of `data.augment` that look at pixels beside a pixel, which in a packed image are those of other patches."""


def check_native(data: DataSection, towers: DualEncoder, used: Mapping[str, Strategy]) -> None:
    """Refuse budgets that no tower reads, and what would take packed patches for a picture.

    Raises:
        RecipeError: Names the key and a way out.
    """
    if towers.budget is None:
        if data.max_patches:
            raise RecipeError(
                "data.max_patches: the image tower reads images of one size: set model.image.max_patches (a tower of "
                "type timm, named naflexvit_*), or leave it out"
            )
        return
    if data.max_patches and not 1 <= min(data.max_patches) <= max(data.max_patches) <= towers.budget.most:
        raise RecipeError(
            f"data.max_patches: {[*data.max_patches]} must lie between 1 and model.image.max_patches="
            f"{towers.budget.most}, with which the model is evaluated"
        )
    for key, way_out in _misfits(data, towers, used):
        raise RecipeError(
            f"{key}: images keep their aspect ratio (model.image.max_patches), and their packed patches are no picture "
            f"to it: {way_out}, or leave model.image.max_patches out"
        )


def _misfits(data: DataSection, towers: DualEncoder, used: Mapping[str, Strategy]) -> Iterator[tuple[str, str]]:
    """Yield keys that cannot stay, and ways out."""
    for name in ("views", "policy", "documents"):
        if getattr(data, name):
            yield f"data.{name}", "leave it out"
    for name in NEIGHBOURS:
        if getattr(data.augment, name):
            yield f"data.augment.{name}", "set it to 0; brightness, saturation, hue, gray, invert and tint work"
    for label, strategy in used.items():
        if strategy.reads_images:
            yield f"strategies.{label}", "leave it out; to draw numbers of patches, set data.max_patches"
        if "teacher" in strategy.provides:
            yield f"strategies.{label}", "leave it out, for a teacher sees images of one size"
    if has_image_prompts(towers.core.visual):
        yield "model.tune", "tune another part (model.tune=lora)"
    if purifier_of(towers.core.visual) is not None:
        yield "model.tune", "leave the purifier out"
