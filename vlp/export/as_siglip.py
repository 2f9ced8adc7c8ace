"""SiglipModel of transformers: a timm vision transformer that pools by attention, and a text tower without mask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer
from timm.models import VisionTransformer
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, SiglipConfig, SiglipModel, SiglipProcessor

from vlp.export.as_clip import BLOCK_PLAIN, TEXT_PLAIN
from vlp.export.processor import image_processor, write_processor
from vlp.export.tokenizer import cleaning_tokenizer
from vlp.towers.dual import DualEncoder
from vlp.towers.tokenizers import TransformersTokenizer
from vlp.towers.transformers_names import BLOCK, TEXT, TRUNK, TRUNK_BLOCK

HIDDEN_ACT = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}
TANH = {"approximate": "tanh"}


def siglip_obstacles(model: DualEncoder) -> list[str]:
    """Return why SiglipModel cannot express the model; nothing if it can."""
    vision, visual = model.model_cfg["vision_cfg"], model.core.visual
    if not isinstance(visual, TimmModel) or not isinstance(visual.trunk, VisionTransformer):
        return ["its image tower is a vision transformer of timm"]
    found = siglip_text_obstacles(model)
    if vision.get("timm_pool") != "map" or vision.get("timm_proj") != "none":
        found.append("its image tower has pool 'map' and proj 'none'")
    if not isinstance(model.image_size, int) or model.preprocess_cfg["resize_mode"] == "longest":
        found.append("it takes square images that are cropped or squashed")
    block: Any = visual.trunk.blocks[0]
    if not isinstance(act := block.mlp.act, nn.GELU):
        found.append(f"it has no activation {type(act).__name__}")
    if found:
        return found
    return compare_shapes(SiglipModel, SiglipConfig(**siglip_config(model)), convert_siglip(model.core.state_dict()))


def siglip_text_obstacles(model: DualEncoder) -> list[str]:
    """Return why SigLIP's text tower in transformers cannot be the model's; nothing if it can."""
    text, tower = model.model_cfg["text_cfg"], model.core.text
    if not isinstance(tower, TextTransformer) or tower.attn_mask is not None or tower.pool_type != "last":
        return ["its text tower has no causal mask and pools at the last token"]
    found = []
    if not isinstance(model.tokenizer, TransformersTokenizer):
        found.append("CLIP's padding is the word '!', which a transformers tokenizer would cut out of texts")
    plain = {**TEXT_PLAIN, **BLOCK_PLAIN, "proj_bias": (False, True), "act_kwargs": (TANH,)}
    return found + [f"it has no {key} = {text[key]}" for key in plain if text.get(key) not in (*plain[key], None)]


def write_siglip(model: DualEncoder, folder: Path) -> None:
    """Write SiglipModel, its tokenizer and its image processor, for a model without obstacles."""
    assert isinstance(model.tokenizer, TransformersTokenizer)
    twin = SiglipModel(SiglipConfig(**siglip_config(model)))
    twin.load_state_dict(convert_siglip(model.core.state_dict()), strict=True)
    twin.save_pretrained(folder)
    images = image_processor(model.preprocess_cfg)
    write_processor(SiglipProcessor, cleaning_tokenizer(model.tokenizer), images, folder)


def siglip_config(model: DualEncoder) -> dict[str, Any]:
    """Return SiglipConfig's settings, none of which is left to a default."""
    trunk = model.core.visual.trunk
    block = trunk.blocks[0]
    vision_config = {
        "hidden_size": trunk.embed_dim,
        "intermediate_size": block.mlp.fc1.out_features,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": block.attn.num_heads,
        "image_size": model.image_size,
        "patch_size": trunk.patch_embed.patch_size[0],
        "hidden_act": HIDDEN_ACT[block.mlp.act.approximate],
        "layer_norm_eps": block.norm1.eps,
        "attention_dropout": 0.0,
    }
    return {"vision_config": vision_config, "text_config": siglip_text_config(model)}


def siglip_text_config(model: DualEncoder) -> dict[str, Any]:
    """Return the settings of SigLIP's text tower, none of which is left to a default."""
    text, activation = model.core.text, "quick_gelu" if model.model_cfg["quick_gelu"] else "gelu"
    if model.model_cfg["text_cfg"].get("act_kwargs") == TANH:
        activation = HIDDEN_ACT["tanh"]
    assert isinstance(model.tokenizer, TransformersTokenizer)
    return {
        "vocab_size": text.vocab_size,
        "hidden_size": text.width,
        "intermediate_size": text.transformer.resblocks[0].mlp.c_fc.out_features,
        "num_hidden_layers": text.transformer.layers,
        "num_attention_heads": text.heads,
        "max_position_embeddings": text.context_length,
        "hidden_act": activation,
        "layer_norm_eps": text.ln_final.eps,
        "attention_dropout": 0.0,
        "projection_size": model.model_cfg["embed_dim"],
        "pad_token_id": model.tokenizer.pad_id,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def convert_siglip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape open_clip's weights to SiglipModel's; unknown names stay as they are."""
    found = {"logit_scale": state["logit_scale"].reshape(1)}
    found["logit_bias"] = state.get("logit_bias", torch.zeros(1)).reshape(1)
    left = {name: value for name, value in state.items() if not name.startswith("logit_")}
    for name, value in left.items():
        part, _, rest = name.partition(".")
        convert = _convert_image if part == "visual" else _convert_text
        tower = "vision_model" if part == "visual" else "text_model"
        for new, piece in convert(rest, value):
            found[f"{tower}.{new}"] = piece
    for kind in ("weight", "bias"):
        names = [f"vision_model.{part}.{kind}" for part in ("query", "key_value")]
        if all(name in found for name in names):
            found[f"vision_model.head.attention.in_proj_{kind}"] = torch.cat([found.pop(name) for name in names])
    if "text_model.head.bias" not in found and "text_model.head.weight" in found:
        found["text_model.head.bias"] = torch.zeros(len(found["text_model.head.weight"]))
    return {name: value.detach().float().cpu().clone() for name, value in found.items()}


def _convert_image(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    name = name.removeprefix("trunk.")
    if name == "pos_embed":
        return [("embeddings.position_embedding.weight", value[0])]
    if name == "attn_pool.latent":
        return [("head.probe", value)]
    layer, _, kind = name.rpartition(".")
    if layer in ("attn_pool.q", "attn_pool.kv"):
        return [(f"{'query' if layer.endswith('.q') else 'key_value'}.{kind}", value)]
    if not layer.startswith("blocks."):
        return [(f"{TRUNK.get(layer, layer)}.{kind}", value)]
    _, number, inner = layer.split(".", 2)
    if inner == "attn.qkv":
        pieces = zip("qkv", value.chunk(3), strict=True)
        return [(f"encoder.layers.{number}.self_attn.{part}_proj.{kind}", piece) for part, piece in pieces]
    return [(f"encoder.layers.{number}.{TRUNK_BLOCK.get(inner, inner)}.{kind}", value)]


def _convert_text(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    if name == "text_projection":
        return [("head.weight", value.T.contiguous())]
    if name.startswith("text_projection."):
        return [(f"head.{name.removeprefix('text_projection.')}", value)]
    if not name.startswith("transformer.resblocks."):
        return [(TEXT.get(name, name), value)]
    number, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
    layer, _, kind = rest.rpartition(".")
    if rest.startswith("attn.in_proj_"):
        pieces = zip("qkv", value.chunk(3), strict=True)
        kind = rest.removeprefix("attn.in_proj_")
        return [(f"encoder.layers.{number}.self_attn.{part}_proj.{kind}", piece) for part, piece in pieces]
    return [(f"encoder.layers.{number}.{BLOCK[layer]}.{kind}", value)]


def compare_shapes(kind: type[PreTrainedModel], config: PreTrainedConfig, state: Mapping[str, Tensor]) -> list[str]:
    """Say which weights a class of transformers has no place for, or lacks."""
    with torch.device("meta"):
        theirs = {name: value.shape for name, value in kind(config).state_dict().items()}
    ours = {name: value.shape for name, value in state.items()}
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return [f"it has no place for {', '.join(wrong[:4])}"] if wrong else []
