"""The transformers half of an exported folder: CLIPModel, SiglipModel or Siglip2Model."""

from __future__ import annotations

from pathlib import Path

from vlp.export.as_clip import clip_obstacles, write_clip
from vlp.export.as_open_clip import prompt_obstacles
from vlp.export.as_siglip import siglip_obstacles, write_siglip
from vlp.export.as_siglip2 import siglip2_obstacles, write_siglip2
from vlp.towers.dual import DualEncoder


def obstacles(model: DualEncoder) -> list[str]:
    """Return why transformers cannot express the model; nothing if one of its classes can."""
    if found := prompt_obstacles(model):
        return found
    if model.budget is not None:
        return [f"Siglip2Model: {reason}" for reason in siglip2_obstacles(model)]
    clip, siglip = clip_obstacles(model), siglip_obstacles(model)
    if not clip or not siglip:
        return []
    return [f"CLIPModel: {', '.join(clip)}", f"SiglipModel: {', '.join(siglip)}"]


def write_transformers(model: DualEncoder, folder: Path) -> None:
    """Write the class that expresses the model, with its processor."""
    if model.budget is not None:
        write_siglip2(model, folder)
    elif clip_obstacles(model):
        write_siglip(model, folder)
    else:
        write_clip(model, folder)
