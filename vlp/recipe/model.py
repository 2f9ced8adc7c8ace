"""The `model` section of a recipe: the towers it describes, and what their weights decided."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from vlp.recipe.schema import Recipe, settings
from vlp.towers.base import DecoderSource, Fragment, Tower, caption_decoders, image_towers, text_towers
from vlp.towers.dual import DualEncoder
from vlp.towers.tuning.base import Tuning, tunings


def build_model(section: BaseModel) -> DualEncoder:
    """Build the towers that a recipe's `model` section describes."""
    parts = (*_towers(section), _tuning(section), decoder_in(section))
    return DualEncoder(*parts, **settings(section, "image", "text", "tune", "decoder"))


def build_start(section: BaseModel) -> DualEncoder:
    """Build the towers as they start from their weights, without what a way of tuning adds."""
    return DualEncoder(*_towers(section), **settings(section, "image", "text", "tune"))


def fragments(section: BaseModel) -> tuple[Fragment, Fragment]:
    """Return what the towers of a recipe's `model` section bring to open_clip's configuration, image first."""
    image, text = _towers(section)
    return image.fragment(), text.fragment()


def _towers(section: Any) -> tuple[Tower, Tower]:
    image, text = section.image, section.text
    return (
        image_towers.build(image.type, settings(image, "type")),
        text_towers.build(text.type, settings(text, "type")),
    )


def decoder_in(section: Any) -> DecoderSource | None:
    """Return the decoder of captions that a recipe's `model` section describes, if any."""
    decoder = section.decoder
    return None if decoder is None else caption_decoders.build(decoder.type, settings(decoder, "type"))


def _tuning(section: Any) -> Tuning:
    return tunings.build(section.tune.type, settings(section.tune, "type"))


def settled(recipe: Recipe, towers: DualEncoder) -> Recipe:
    """Return a recipe in which stands what weights and files decided, so that the model can be built without them."""
    model: Any = recipe.model
    decided: dict[str, Any] = {}
    if towers.loaded:
        decided |= {key: towers.preprocess_cfg[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    for side in ("image", "text") if towers.loaded else ():
        tower = getattr(model, side)
        if "quick_gelu" in type(tower).model_fields:
            decided[side] = tower.model_copy(update={"quick_gelu": towers.model_cfg["quick_gelu"]})
    if towers.new_tokens is not None:
        decided["text"] = decided.get("text", model.text).model_copy(update={"new_tokens": towers.new_tokens.given})
    return recipe.model_copy(update={"model": model.model_copy(update=decided)})


def without_weights(section: BaseModel) -> BaseModel:
    """Return a `model` section that downloads and loads nothing, for a model whose weights come from elsewhere."""
    names = {"weights": None, "pretrained": False}
    towers = {
        side: getattr(section, side).model_copy(
            update={name: value for name, value in names.items() if name in type(getattr(section, side)).model_fields}
        )
        for side in ("image", "text")
    }
    return section.model_copy(update={"weights": None, **towers})
