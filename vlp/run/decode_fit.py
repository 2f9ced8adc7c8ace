"""Whether images can be decoded on the device, said before the first step."""

from __future__ import annotations

import torch

from vlp.data import Crop, Views
from vlp.data.pixels.device_decode import DeviceDecoder, check_decodes
from vlp.ground.types import RecipeError
from vlp.recipe.schema import DataSection


def build_device_decoder(data: DataSection, views: Views, device: torch.device) -> DeviceDecoder | None:
    """Return what decodes JPEGs on the device, where a recipe wants it.

    Raises:
        RecipeError: It cannot be done; names the key and a way out.
    """
    if data.decode == "host":
        return None
    key, way_out = "data.decode=device", "or set data.decode=host"
    if device.type != "cuda":
        raise RecipeError(
            f"{key}: this run computes on {device.type}, and CUDA alone decodes JPEGs: train there, {way_out}"
        )
    for name, why in (
        ("documents", "the images of documents are cut one by one by the decoding processes"),
        ("policy", "it changes cropped pixels in the decoding processes, which would have none"),
    ):
        if getattr(data, name) is not None:
            raise RecipeError(f"{key}: data.{name} cannot be used with it, as {why}: leave data.{name} out, {way_out}")
    crops = tuple(crop for crop in views.crops if isinstance(crop, Crop))
    if len(crops) != len(views.crops):
        raise RecipeError(
            f"{key}: images keep their aspect ratio (model.image.max_patches), and are packed patch by patch by the "
            f"decoding processes: leave model.image.max_patches out, {way_out}"
        )
    check_decodes(device)
    return DeviceDecoder(device, crops)
