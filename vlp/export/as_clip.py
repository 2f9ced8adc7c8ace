"""CLIPModel of transformers: a vision transformer and a causal text tower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from vlp.export.processor import image_processor, write_processor
from vlp.export.tokenizer import cleaning_tokenizer, fast_tokenizer
from vlp.towers.clip_words import END
from vlp.towers.dual import DualEncoder
from vlp.towers.tokenizers import ClipTokenizer, PaddingTokenizer, TransformersTokenizer
from vlp.towers.transformers_names import BLOCK, TEXT, VISUAL

CLIP_END = 49407
# settings of open_clip that CLIPModel has no place for, and the values at which they do nothing
VISION_PLAIN = {
    "ls_init_value": (None,), "attentional_pool": (False,), "no_ln_pre": (False,), "pool_type": ("tok",),
}  # fmt: skip
TEXT_PLAIN = {"ls_init_value": (None,), "embed_cls": (False,), "proj_bias": (False,), "proj_type": ("linear",)}
BLOCK_PLAIN = {
    "block_type": (None, "default"), "qk_norm": (False,), "scaled_cosine_attn": (False,), "scale_heads": (False,),
    "scale_attn_inner": (False,), "scale_attn": (False,), "scale_fc": (False,), "act_kwargs": (None,),
}  # fmt: skip


def clip_obstacles(model: DualEncoder) -> list[str]:
    """Return why CLIPModel cannot express the model; nothing if it can."""
    vision, text = model.model_cfg["vision_cfg"], model.model_cfg["text_cfg"]
    found = []
    if not isinstance(model.core.visual, VisionTransformer):
        found.append(f"it has no place for the image tower '{vision.get('timm_model_name', 'ResNet')}'")
    if not isinstance(model.core.text, TextTransformer):
        found.append(f"it has no place for the text tower '{text.get('hf_model_name')}'")
    if not isinstance(model.image_size, int):
        found.append(f"it takes square images, not {model.image_size}")
    if model.preprocess_cfg["resize_mode"] == "longest":
        found.append("its image processor cannot resize by the longest side")
    if found:
        return found
    if text.get("no_causal_mask") or text.get("pool_type", "argmax") not in ("argmax", "eos"):
        found.append("its text tower is causal and pools at the end token")
    if not _has_clip_words(model.tokenizer, text):
        found.append("its tokenizer is written for CLIP's byte pairs alone, which may have further tokens")
    elif text.get("pool_type") == "eos" and text.get("eos_id") != CLIP_END:
        found.append(f"its text tower pools at CLIP's end token, not at {text.get('eos_id')}")
    elif text.get("tokenizer_kwargs", {}).get("clean", "lower") != "lower":
        found.append(f"the tokenizer cleans texts by '{text['tokenizer_kwargs']['clean']}'")
    for config, plain in ((vision, VISION_PLAIN), (text, TEXT_PLAIN), (vision, BLOCK_PLAIN), (text, BLOCK_PLAIN)):
        found += [f"it has no {key} = {config[key]}" for key in plain if config.get(key) not in (*plain[key], None)]
    return found


def write_clip(model: DualEncoder, folder: Path) -> None:
    """Write CLIPModel, its tokenizer and its image processor, for a model without obstacles."""
    tokenizer = model.tokenizer
    if isinstance(tokenizer, TransformersTokenizer):
        words = cleaning_tokenizer(tokenizer)
    else:
        assert isinstance(tokenizer, ClipTokenizer)
        words = fast_tokenizer(tokenizer)
    twin = CLIPModel(CLIPConfig(**clip_config(model)))
    twin.load_state_dict(convert(model.core.state_dict()), strict=True)
    twin.save_pretrained(folder)
    write_processor(CLIPProcessor, words, image_processor(model.preprocess_cfg), folder)


def _has_clip_words(tokenizer: PaddingTokenizer, text: Mapping[str, Any]) -> bool:
    """Whether captions are split into CLIP's byte pairs, among which transformers finds the end of each."""
    if isinstance(tokenizer, ClipTokenizer):
        return bool(text.get("vocab_size", CLIP_END + 1) == CLIP_END + 1)
    is_grown = isinstance(tokenizer, TransformersTokenizer) and tokenizer.words.eos_token == END
    return is_grown and text.get("pool_type") == "eos"


def clip_config(model: DualEncoder) -> dict[str, Any]:
    """Return CLIPConfig's settings, none of which is left to a default."""
    visual, text = model.core.visual, model.core.text
    vision_cfg, text_cfg = model.model_cfg["vision_cfg"], model.model_cfg["text_cfg"]
    width = model.model_cfg["embed_dim"]
    common = {
        "projection_dim": width,
        "hidden_act": "quick_gelu" if model.model_cfg["quick_gelu"] else "gelu",
        "attention_dropout": 0.0,
    }
    vision_config = {
        **common,
        "hidden_size": vision_cfg["width"],
        "intermediate_size": int(vision_cfg["width"] * vision_cfg.get("mlp_ratio", 4.0)),
        "num_hidden_layers": visual.transformer.layers,
        "num_attention_heads": vision_cfg["width"] // vision_cfg.get("head_width", 64),
        "image_size": model.image_size,
        "patch_size": visual.patch_size[0],
        "layer_norm_eps": visual.ln_post.eps,
    }
    text_config = {
        **common,
        "vocab_size": text.vocab_size,
        "hidden_size": text.width,
        "intermediate_size": int(text.width * text_cfg.get("mlp_ratio", 4.0)),
        "num_hidden_layers": text.transformer.layers,
        "num_attention_heads": text.heads,
        "max_position_embeddings": text.context_length,
        "layer_norm_eps": text.ln_final.eps,
        "bos_token_id": CLIP_END - 1,
        # transformers pools at the highest id if this is 2
        "eos_token_id": CLIP_END,
        "pad_token_id": CLIP_END,
    }
    return {"projection_dim": width, "vision_config": vision_config, "text_config": text_config}


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape open_clip's weights to CLIPModel's."""
    found = {"logit_scale": state["logit_scale"].reshape(())}
    found["visual_projection.weight"] = state["visual.proj"].T.contiguous()
    found["text_projection.weight"] = state["text.text_projection"].T.contiguous()
    for tower, names, theirs in (("visual", VISUAL, "vision_model"), ("text", TEXT, "text_model")):
        for name, new in names.items():
            found[f"{theirs}.{new}"] = state[f"{tower}.{name}"]
        blocks = f"{tower}.transformer.resblocks."
        for name in state:
            if name.startswith(blocks):
                number, _, rest = name.removeprefix(blocks).partition(".")
                for new, value in _convert_block(rest, state[name]):
                    found[f"{theirs}.encoder.layers.{number}.{new}"] = value
    return {name: value.detach().float().cpu().clone() for name, value in found.items()}


def _convert_block(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    if name.startswith("attn.in_proj_"):
        kind = name.removeprefix("attn.in_proj_")
        return [(f"self_attn.{part}_proj.{kind}", piece) for part, piece in zip("qkv", value.chunk(3), strict=True)]
    layer, _, kind = name.rpartition(".")
    return [(f"{BLOCK[layer]}.{kind}", value)]
