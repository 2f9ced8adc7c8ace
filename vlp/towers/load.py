"""Load a trained model by name, wherever it comes from."""

from __future__ import annotations

from vlp.ground.types import RecipeError
from vlp.towers.dual import DualEncoder
from vlp.towers.open_clip import OpenClipImage, OpenClipText
from vlp.towers.sources import HUB, LOCAL, folder_of, read_config


def load_model(name: str) -> DualEncoder:
    """Load a model with its weights, in evaluation mode.

    Args:
        name: A folder with `open_clip_config.json`, `hf-hub:ORG/NAME`, or `NAME:TAG` of open_clip.

    Raises:
        RecipeError: No such model, or it has no weights.
    """
    is_place = name.startswith((HUB, LOCAL)) or folder_of(name) is not None
    source, _, tag = (name, "", "") if is_place else name.partition(":")
    read_config(source)
    if not is_place and not tag:
        raise RecipeError(f"'{name}' is an architecture without weights: name them too, as in '{name}:TAG'")
    return DualEncoder(OpenClipImage(name=source), OpenClipText(name=source), weights=name).eval()
