"""Siglip2Model of transformers: a NaFlexVit of timm that reads images at their own aspect ratio, and SigLIP's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from open_clip.timm_model import TimmModel
from timm.layers import GELUTanh
from timm.models.naflexvit import NaFlexVit
from transformers import Siglip2Config, Siglip2Model, Siglip2Processor
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from vlp.export.as_siglip import compare_shapes, convert_siglip, siglip_text_config, siglip_text_obstacles
from vlp.export.processor import pixel_settings, write_processor
from vlp.export.tokenizer import cleaning_tokenizer
from vlp.towers.dual import DualEncoder
from vlp.towers.native_weights import from_native
from vlp.towers.tokenizers import TransformersTokenizer

ACTIVATION = "gelu_pytorch_tanh"


def siglip2_obstacles(model: DualEncoder) -> list[str]:
    """Return why Siglip2Model cannot express the model; nothing if it can."""
    vision, visual = model.model_cfg["vision_cfg"], model.core.visual
    if not isinstance(visual, TimmModel) or not isinstance(visual.trunk, NaFlexVit) or model.budget is None:
        return ["its image tower is a NaFlexVit of timm with max_patches"]
    found = siglip_text_obstacles(model)
    if vision.get("timm_pool") != "map" or vision.get("timm_proj") != "none":
        found.append("its image tower has pool 'map' and proj 'none'")
    if visual.trunk.embeds.pos_embed_interp_mode != "bilinear":
        found.append("it interpolates positions bilinearly")
    block: Any = visual.trunk.blocks[0]
    if not isinstance(act := block.mlp.act, GELUTanh):
        found.append(f"it has no activation {type(act).__name__}")
    if found:
        return found
    state = convert_siglip(from_native(model.core.state_dict()))
    return compare_shapes(Siglip2Model, Siglip2Config(**siglip2_config(model)), state)


def write_siglip2(model: DualEncoder, folder: Path) -> None:
    """Write Siglip2Model, its tokenizer and its image processor, for a model without obstacles."""
    assert isinstance(model.tokenizer, TransformersTokenizer) and model.budget is not None
    twin = Siglip2Model(Siglip2Config(**siglip2_config(model)))
    twin.load_state_dict(convert_siglip(from_native(model.core.state_dict())), strict=True)
    twin.save_pretrained(folder)
    patches: dict[str, Any] = {"patch_size": model.budget.patch, "max_num_patches": model.budget.most}
    images = Siglip2ImageProcessorPil(do_resize=True, **patches, **pixel_settings(model.preprocess_cfg))
    words = cleaning_tokenizer(model.tokenizer)
    # the processor has 64 tokens and 256 patches of 16 for everybody, unless its tokenizer says otherwise
    words.init_kwargs |= {"max_length": model.context_length, **patches}
    write_processor(Siglip2Processor, words, images, folder)


def siglip2_config(model: DualEncoder) -> dict[str, Any]:
    """Return Siglip2Config's settings, none of which is left to a default."""
    trunk = model.core.visual.trunk
    block, grid = trunk.blocks[0], trunk.embeds.pos_embed.shape[1:3]
    vision_config = {
        "hidden_size": trunk.embed_dim,
        "intermediate_size": block.mlp.fc1.out_features,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": block.attn.num_heads,
        "num_patches": grid.numel(),
        "patch_size": trunk.embeds.patch_size[0],
        "hidden_act": ACTIVATION,
        "layer_norm_eps": block.norm1.eps,
        "attention_dropout": 0.0,
        "vision_use_head": True,
    }
    return {"vision_config": vision_config, "text_config": siglip_text_config(model)}
