"""What open_clip and transformers call the same tensors of CLIP and SigLIP, and the way from theirs to ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
VISUAL = {
    "conv1.weight": "embeddings.patch_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
TEXT = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
TRUNK = {
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
    "attn_pool.proj": "head.attention.out_proj",
    "attn_pool.norm": "head.layernorm",
    "attn_pool.mlp.fc1": "head.mlp.fc1",
    "attn_pool.mlp.fc2": "head.mlp.fc2",
}
TRUNK_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
LAYER = re.compile(r"(visual|text)\.(?:transformer\.resblocks|trunk\.blocks)\.(\d+)\.(.+)")
PACKED = ("attn", "attn.qkv")  # queries, keys and values in one
ATTENTION = re.compile(r"(.*\.self_attn\.)q_proj\.(weight|bias)")
POSITIONS = re.compile(r".*position_ids")  # constants that older releases stored
OF_CLIP = "visual_projection.weight"
OF_SIGLIP = "vision_model.head.probe"


def is_of_transformers(names: Mapping[str, object] | set[str]) -> bool:
    """Whether tensors have the names of CLIPModel or SiglipModel."""
    return OF_CLIP in names or OF_SIGLIP in names


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape the weights of CLIPModel or SiglipModel to open_clip's; unknown names stay as they are."""
    known = {name: value for name, value in state.items() if not POSITIONS.fullmatch(name)}
    return dict(_siglip(_joined(known)) if OF_SIGLIP in known else _clip(_joined(known)))


def layers_in_transformers(layer: str) -> list[str]:
    """Return what CLIPModel or SiglipModel calls a linear layer of a block: one name, or three for a packed one."""
    found = LAYER.fullmatch(layer)
    assert found is not None, layer
    side, number, inner = found.groups()
    block = f"{'vision' if side == 'visual' else 'text'}_model.encoder.layers.{number}"
    if inner in PACKED:
        return [f"{block}.self_attn.{part}_proj" for part in "qkv"]
    return [f"{block}.{(BLOCK | TRUNK_BLOCK)[inner]}"]


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put queries, keys and values into one tensor, under the name `...self_attn.qkv`."""
    found = {}
    for name, value in state.items():
        if match := ATTENTION.fullmatch(name):
            before, kind = match.groups()
            others = [state[f"{before}{part}_proj.{kind}"] for part in "kv"]
            found[f"{before}qkv.{kind}"] = torch.cat([value, *others])
        elif not re.fullmatch(r".*\.self_attn\.[kv]_proj\.(weight|bias)", name):
            found[name] = value
    return found


def _clip(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        if name == OF_CLIP:
            yield "visual.proj", value.T.contiguous()
        elif name == "text_projection.weight":
            yield "text.text_projection", value.T.contiguous()
        elif name.startswith("vision_model."):
            yield f"visual.{_renamed(name.removeprefix('vision_model.'), VISUAL, *RESBLOCKS)}", value
        elif name.startswith("text_model."):
            yield f"text.{_renamed(name.removeprefix('text_model.'), TEXT, *RESBLOCKS)}", value
        else:
            yield name, value


def _siglip(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        tower, _, rest = name.partition(".")
        if tower == "vision_model" and rest == "embeddings.position_embedding.weight":
            yield "visual.trunk.pos_embed", value[None]
        elif name == OF_SIGLIP:
            yield "visual.trunk.attn_pool.latent", value
        elif rest.startswith("head.attention.in_proj_"):
            kind, width = rest.removeprefix("head.attention.in_proj_"), len(value) // 3
            yield f"visual.trunk.attn_pool.q.{kind}", value[:width]
            yield f"visual.trunk.attn_pool.kv.{kind}", value[width:]
        elif tower == "vision_model":
            yield f"visual.trunk.{_renamed(rest, _both(TRUNK), 'blocks', _both(TRUNK_BLOCK), 'attn.qkv.')}", value
        elif rest == "head.weight":
            yield "text.text_projection.weight", value
        elif rest == "head.bias":
            yield "text.text_projection.bias", value
        elif tower == "text_model":
            yield f"text.{_renamed(rest, TEXT, *RESBLOCKS)}", value
        else:
            yield name, value


def _both(layers: Mapping[str, str]) -> dict[str, str]:
    """Return names of tensors for names of layers."""
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in layers.items() for kind in ("weight", "bias")}


RESBLOCKS = ("transformer.resblocks", _both(BLOCK), "attn.in_proj_")


def _renamed(name: str, table: Mapping[str, str], blocks: str, inner: Mapping[str, str], qkv: str) -> str:
    """Return our name of a tensor of one tower."""
    if match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name):
        number, rest = match.groups()
        if rest.startswith("self_attn.qkv."):
            return f"{blocks}.{number}.{qkv}{rest.removeprefix('self_attn.qkv.')}"
        return f"{blocks}.{number}.{_reverse(inner).get(rest, rest)}"
    return _reverse(table).get(name, name)


def _reverse(table: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in table.items()}
