"""The transformers half of an exported folder: CLIPModel or SiglipModel."""

from __future__ import annotations

from pathlib import Path

from vlp.export.as_clip import clip_obstacles, write_clip
from vlp.export.as_open_clip import prompt_obstacles
from vlp.export.as_siglip import siglip_obstacles, write_siglip
from vlp.towers.dual import DualEncoder


def obstacles(model: DualEncoder) -> list[str]:
    """Return why transformers cannot express the model; nothing if one of its classes can."""
    if found := prompt_obstacles(model):
        return found
    clip, siglip = clip_obstacles(model), siglip_obstacles(model)
    if not clip or not siglip:
        return []
    return [f"CLIPModel: {', '.join(clip)}", f"SiglipModel: {', '.join(siglip)}"]


def write_transformers(model: DualEncoder, folder: Path) -> None:
    """Write the class that expresses the model, with its processor."""
    write = write_siglip if clip_obstacles(model) else write_clip
    write(model, folder)
