"""Folders of transformers with CLIPModel, SiglipModel or Siglip2Model, in open_clip's words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from PIL.Image import Resampling
from transformers import CLIPConfig, Siglip2Config, SiglipConfig

from vlp.ground.types import RecipeError

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
KINDS = ("clip", "siglip", "siglip2")
MAP_POOL = {"timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none"}
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
CLIP_END = 49407
TEXT_ACTIVATIONS: dict[str, dict[str, Any]] = {
    "gelu_pytorch_tanh": {"act_kwargs": {"approximate": "tanh"}}, "gelu": {}, "quick_gelu": {}
}  # fmt: skip
USUAL_PATCHES = 256  # of SigLIP 2, where its processor does not say
INTERPOLATIONS = {int(Resampling.BICUBIC): "bicubic", int(Resampling.BILINEAR): "bilinear"}
# How SigLIP sees images where nobody says it: what open_clip takes for granted is CLIP's.
OF_SIGLIP = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic", "resize_mode": "squash"}
OF_SIGLIP_2 = OF_SIGLIP | {"interpolation": "bilinear"}


def kind_of(folder: Path) -> str | None:
    """Return `clip`, `siglip` or `siglip2` where a folder holds such a model, else None."""
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    return kind if kind in KINDS else None


def read_folder(folder: Path) -> dict[str, Any]:
    """Return {"model_cfg", "preprocess_cfg"} of a folder, and "max_patches" where images keep their aspect ratio.

    Raises:
        RecipeError: The model has something that open_clip's towers cannot express.
    """
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config["model_type"] == "siglip2":
        model_cfg, most = _siglip2(folder, config), _told(folder).get("max_num_patches", USUAL_PATCHES)
        return {"model_cfg": model_cfg, "preprocess_cfg": OF_SIGLIP_2 | _preprocessing(folder), "max_patches": most}
    if config["model_type"] == "siglip":
        model_cfg, prepared = _siglip(folder, config), OF_SIGLIP | _preprocessing(folder)
    else:
        model_cfg, prepared = _clip(folder, config), _preprocessing(folder)
    _check_sizes(folder, prepared.get("resize_mode", "shortest"), model_cfg)
    return {"model_cfg": model_cfg, "preprocess_cfg": prepared}


def _clip(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    settings: Any = CLIPConfig(**config)
    vision, text = settings.vision_config, settings.text_config
    pool = {"pool_type": "argmax"}
    # with 2, transformers pools at the highest id, as open_clip does; so it is with CLIP's own tokens and no others
    if text.eos_token_id != 2 and (text.eos_token_id, text.vocab_size) != (CLIP_END, CLIP_END + 1):
        pool = {"pool_type": "eos", "eos_id": text.eos_token_id}
    return {
        "embed_dim": settings.projection_dim,
        "quick_gelu": _activation(folder, vision.hidden_act, text.hidden_act),
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "patch_size": vision.patch_size,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
            "norm_kwargs": {"eps": vision.layer_norm_eps},
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
            "norm_kwargs": {"eps": text.layer_norm_eps},
            **pool,
            **({} if text.vocab_size == CLIP_END + 1 else {"hf_tokenizer_name": str(folder)}),
        },
    }


def _siglip(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    settings: Any = SiglipConfig(**config)
    vision, text = settings.vision_config, settings.text_config
    if vision.hidden_act not in ("gelu", "gelu_pytorch_tanh"):  # timm's has either, which differ by 1e-3 at most
        raise RecipeError(f"'{folder}': timm's SigLIP towers have GELU, not '{vision.hidden_act}'")
    return {
        "embed_dim": vision.hidden_size,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": vision.image_size,
            "timm_model_name": _timm_name(folder, _square_towers(), vision, vision.image_size),
            **MAP_POOL,
        },
        "text_cfg": _siglip_text(folder, text, "canonicalize"),
    }


def _siglip2(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    settings: Any = Siglip2Config(**config)
    vision, text = settings.vision_config, settings.text_config
    if vision.hidden_act != "gelu_pytorch_tanh" or not vision.vision_use_head:
        raise RecipeError(
            f"'{folder}': timm's SigLIP 2 towers have gelu_pytorch_tanh and pool by attention, not {vision.hidden_act} "
            f"and vision_use_head={vision.vision_use_head}"
        )
    side = math.isqrt(vision.num_patches) * vision.patch_size
    return {
        "embed_dim": vision.hidden_size,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": side,
            "timm_model_name": _timm_name(folder, _native_towers(), vision, side),
            **MAP_POOL,
        },
        "text_cfg": _siglip_text(folder, text, "whitespace"),  # its tokenizer does the rest
    }


def _siglip_text(folder: Path, text: Any, cleaning: str) -> dict[str, Any]:
    if text.hidden_act not in TEXT_ACTIVATIONS:
        raise RecipeError(f"'{folder}': open_clip's text tower has no activation '{text.hidden_act}'")
    return {
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "hf_tokenizer_name": str(folder),
        "tokenizer_kwargs": {"clean": cleaning},
        "width": text.hidden_size,
        "heads": text.num_attention_heads,
        "layers": text.num_hidden_layers,
        "mlp_ratio": text.intermediate_size / text.hidden_size,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": text.layer_norm_eps},
        **TEXT_ACTIVATIONS[text.hidden_act],
    }


def _activation(folder: Path, *names: str) -> bool:
    if len(set(names)) > 1 or names[0] not in ACTIVATIONS:
        raise RecipeError(f"'{folder}': open_clip has one activation for both towers, GELU or QuickGELU, not {names}")
    return ACTIVATIONS[names[0]]


def _timm_name(folder: Path, towers: Mapping[str, _Sizes], vision: Any, image_size: int) -> str:
    """Return the SigLIP tower of timm that has these sizes.

    Args:
        towers: Those to choose from.
        image_size: Side of the square that has a position for each patch.
    """
    wanted = _Sizes(
        vision.hidden_size,
        vision.num_hidden_layers,
        vision.num_attention_heads,
        vision.intermediate_size,
        vision.patch_size,
        image_size,
    )
    for name, sizes in towers.items():
        if sizes == wanted:
            return name
    raise RecipeError(f"'{folder}': no SigLIP tower of timm has the sizes of this one ({wanted})")


class _Sizes(NamedTuple):
    width: int
    layers: int
    heads: int
    inner_width: int
    patch: int
    image: int

    def __str__(self) -> str:
        return ", ".join(f"{name} {size}" for name, size in self._asdict().items())


@cache
def _square_towers() -> dict[str, _Sizes]:
    trunks = _trunks("vit_*siglip*")
    return {
        name: _sizes(trunk, trunk.patch_embed.patch_size[0], trunk.patch_embed.img_size[0]) for name, trunk in trunks
    }


@cache
def _native_towers() -> dict[str, _Sizes]:
    trunks = [(name, trunk, trunk.embeds.patch_size[0]) for name, trunk in _trunks("naflexvit_*siglip*")]
    return {name: _sizes(trunk, patch, trunk.embeds.pos_embed.shape[1] * patch) for name, trunk, patch in trunks}


def _trunks(pattern: str) -> Iterator[tuple[str, Any]]:
    for name in timm.list_models(pattern):
        if "_gap_" in name:  # without the pooling by attention
            continue
        with torch.device("meta"):
            yield name, timm.create_model(name, pretrained=False)


def _sizes(trunk: Any, patch: int, image: int) -> _Sizes:
    attention, inner_width = trunk.blocks[0].attn, trunk.blocks[0].mlp.fc1.out_features
    return _Sizes(trunk.embed_dim, len(trunk.blocks), attention.num_heads, inner_width, patch, image)


def _preprocessing(folder: Path) -> dict[str, Any]:
    """Return open_clip's `preprocess_cfg`, as far as a folder says how its images are prepared.

    Raises:
        RecipeError: They are prepared in a way that open_clip's transform does not know.
    """
    told = _told(folder)
    scaled = told.get("do_rescale", True), told.get("rescale_factor", 1 / 255)
    for is_other, what in (
        (told.get("do_resize") is False, "not resized"),
        (told.get("do_pad") is True, "padded"),
        (not scaled[0] or not math.isclose(scaled[1], 1 / 255, rel_tol=1e-6), "not scaled from 0 to 1"),
    ):
        if is_other:
            raise RecipeError(f"'{folder}': its images are {what}, which open_clip's transform cannot be told")
    resample = told.get("resample")
    if resample is not None and resample not in INTERPOLATIONS:
        raise RecipeError(
            f"'{folder}': its images are resized by filter {resample} of Pillow, open_clip knows "
            f"{' and '.join(f'{number} ({name})' for number, name in INTERPOLATIONS.items())}"
        )
    found: dict[str, Any] = {
        "mean": told.get("image_mean"),
        "std": told.get("image_std"),
        "interpolation": INTERPOLATIONS.get(told.get("resample", -1)),
    }
    if told.get("do_normalize") is False:
        found |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    size = told.get("size")
    if isinstance(size, dict):
        found["resize_mode"] = "shortest" if "shortest_edge" in size else "squash"
    elif size is not None:
        found["resize_mode"] = "shortest" if told.get("do_center_crop", True) else "squash"
    return {key: value for key, value in found.items() if value is not None}


def _check_sizes(folder: Path, resize_mode: str, model_cfg: Mapping[str, Any]) -> None:
    """Refuse sizes of images that open_clip's transform, which resizes and cuts to one size, would not give.

    Raises:
        RecipeError: Says which.
    """
    told, side = _told(folder), model_cfg["vision_cfg"]["image_size"]
    size = _edges(told.get("size"))
    cut = _edges(told.get("crop_size")) if told.get("do_center_crop", resize_mode == "shortest") else {}
    resized, seen = set(size.values()), set(cut.values()) or set(size.values())
    if "longest_edge" in size:
        said = f"resized to a longest edge of {size['longest_edge']} pixels"
    elif "shortest_edge" in size and told.get("do_center_crop") is False:
        said = "resized to a shortest edge and not cut"
    elif cut and resized and resized != seen:
        said = f"resized to {_listed(resized)} pixels and cut to {_listed(seen)}"
    elif seen and seen != {side}:
        said = f"prepared with {_listed(seen)} pixels, where its tower sees {side}"
    else:
        return
    raise RecipeError(f"'{folder}': its images are {said}, which open_clip's transform does not do")


def _edges(told: Any) -> dict[str, int]:
    """Return the edges that a processor names, older ones as one number."""
    if isinstance(told, dict):
        return {name: value for name, value in told.items() if value is not None}
    return {"edge": told} if isinstance(told, int) else {}


def _listed(sizes: set[int]) -> str:
    return " x ".join(map(str, sorted(sizes)))


def _told(folder: Path) -> dict[str, Any]:
    """Return what an image processor says of itself; nothing where it cannot be read.

    Transformers 5 writes it into the file of the whole processor, and reads that first.
    """
    whole = _settings_in(folder / "processor_config.json").get("image_processor")
    return whole if isinstance(whole, dict) else _settings_in(folder / "preprocessor_config.json")


def _settings_in(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
