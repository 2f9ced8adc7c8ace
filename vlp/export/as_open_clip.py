"""The open_clip half of an exported folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import VisionTransformer
from safetensors.torch import save_file

from vlp.towers.class_token import ClassTokenText
from vlp.towers.dual import DualEncoder
from vlp.towers.encoders import OtherEncoder
from vlp.towers.learned_tokens import has_image_prompts, prompted
from vlp.towers.sources import CONFIG_FILE, WEIGHT_FILES
from vlp.towers.tokenizers import TransformersTokenizer


def open_clip_obstacles(model: DualEncoder) -> list[str]:
    """Return why open_clip cannot load the model; nothing if it can."""
    found = prompt_obstacles(model)
    if model.budget is not None:
        found.append("it has no place for images of several aspect ratios")
    if isinstance(model.core.text, OtherEncoder):
        found.append(f"its text tower cannot be a {model.core.text.config.model_type} encoder")
    if model.decoder is not None and not isinstance(model.core.visual, VisionTransformer):
        found.append("its decoder of captions reads no image tower but its own vision transformer")
    return found


def prompt_obstacles(model: DualEncoder) -> list[str]:
    """Return which learned tokens no other library has a place for."""
    found = ["no tower has learned tokens beside its patches"] if has_image_prompts(model.core.visual) else []
    if prompted(model.core.text) is not None:
        found.append("its tokenizer puts no learned tokens into captions")
    return found


def has_correct_mask(model: DualEncoder) -> bool:
    """Whether a class token sees its caption and itself alone, which open_clip has to be told by hand."""
    return isinstance(model.core.text, ClassTokenText) and model.core.text.correct_cls_mask


def write_open_clip(model: DualEncoder, folder: Path) -> None:
    """Write configuration, weights, and what a transformers text tower needs to be built again."""
    is_theirs = isinstance(model.tokenizer, TransformersTokenizer)
    model_cfg = {
        **model.model_cfg,
        "vision_cfg": {**model.model_cfg["vision_cfg"], "patch_dropout": 0.0},
        "text_cfg": {**model.model_cfg["text_cfg"], **({"hf_tokenizer_name": str(folder)} if is_theirs else {})},
    }
    config: dict[str, Any] = {"model_cfg": model_cfg, "preprocess_cfg": model.preprocess_cfg}
    if has_correct_mask(model):
        config["correct_cls_mask"] = True  # which open_clip does not read
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.core.state_dict().items()}
    for name in ("logit_scale", "logit_bias"):
        if name in weights:  # training keeps them one-dimensional
            weights[name] = weights[name].reshape(())
    save_file(weights, folder / WEIGHT_FILES[0], metadata={"format": "pt"})
    if isinstance(model.tokenizer, TransformersTokenizer):
        model.tokenizer.words.save_pretrained(folder)
    if isinstance(model.core.text, HFTextEncoder):
        model.core.text.config.save_pretrained(folder)
    point_to(folder, str(folder.resolve()))


def point_to(folder: Path, place: str) -> None:
    """Make a transformers text tower and tokenizer be looked for at `place`: open_clip stores their address.

    Args:
        place: Absolute path of the folder, or its name on the hub.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    text = config["model_cfg"]["text_cfg"]
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if text.get(key):
            text[key] = place
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
