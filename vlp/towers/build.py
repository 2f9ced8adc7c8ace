"""Build open_clip's two-tower module from two fragments, and refuse settings that would do nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import timm
import torch
from open_clip import CustomTextCLIP
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import nn
from transformers import AutoConfig

from vlp.ground.errors import said_by
from vlp.ground.types import RecipeError
from vlp.towers.attention import make_lean
from vlp.towers.base import DecoderSource, Fragment
from vlp.towers.caption_decoder import CaptionDecoder, build_decoder, decoder_of, join_decoder
from vlp.towers.class_token import make_class_token
from vlp.towers.encoders import OtherEncoder, is_known_to_open_clip
from vlp.towers.gated_decoder import GATED, build_gated
from vlp.towers.locating_decoder import LOCATING, build_locating
from vlp.towers.native_aspect import make_native
from vlp.towers.packed_text import make_packed
from vlp.towers.pretrained import Gaps, count_trunk, load_encoder, watching_gaps
from vlp.towers.token_table import token_table
from vlp.towers.trial_inputs import one_image, one_text
from vlp.towers.weights import Loaded

LONGEST = 500  # letters of another library's error
PLACEHOLDER = {"layers": 1, "width": 8, "heads": 1, "vocab_size": 1, "context_length": 1}


def join(
    image: Fragment,
    text: Fragment,
    embed_dim: int | None,
    init_bias: float | None,
    trained_with: Mapping[str, bool | None] = MappingProxyType({}),
    decoder: DecoderSource | None = None,
) -> dict[str, Any]:
    """Return open_clip's `model_cfg` of the two towers, and of a decoder of captions.

    Args:
        trained_with: Whether a tower's weights were trained with QuickGELU, by `image` and `text`.

    Raises:
        RecipeError: The towers disagree about the embedding's width or the activation.
    """
    widths = sorted({width for width in (image.embed_dim, text.embed_dim) if width is not None})
    if embed_dim is None and len(widths) != 1:
        raise RecipeError(f"model.embed_dim is needed: the towers suggest {widths or 'none'}")
    model_cfg: dict[str, Any] = {
        "embed_dim": widths[0] if embed_dim is None else embed_dim,
        "quick_gelu": choose_activation(image, text, trained_with),
        "custom_text": True,
        "vision_cfg": {key: value for key, value in image.config.items() if key != "output_tokens"},
        "text_cfg": {key: value for key, value in text.config.items() if key != "output_tokens"},
    }
    if decoder is not None:  # towers hand out their tokens to nobody else
        model_cfg["multimodal_cfg"] = decoder.config(model_cfg["text_cfg"])
        for side in ("vision_cfg",) if LOCATING in model_cfg["multimodal_cfg"] else ("vision_cfg", "text_cfg"):
            model_cfg[side]["output_tokens"] = True
    if init_bias is None and image.init_bias == text.init_bias:
        init_bias = text.init_bias
    if init_bias is not None:
        model_cfg["init_logit_bias"] = init_bias
    return model_cfg


def choose_activation(
    image: Fragment, text: Fragment, trained_with: Mapping[str, bool | None] = MappingProxyType({})
) -> bool:
    """Return whether open_clip's blocks compute with QuickGELU: as the user says, the weights, or the configurations.

    Raises:
        RecipeError: The user contradicts the weights, or one tower the other.
    """
    firm, usual = {}, {}
    for side, part in (("image", image), ("text", text)):
        if part.usual_quick_gelu is None:  # it brings an activation of its own
            continue
        trained = trained_with.get(side)
        if part.quick_gelu is not None and trained not in (None, part.quick_gelu):
            raise RecipeError(
                f"{side}.quick_gelu: {str(part.quick_gelu).lower()} contradicts the weights, which were trained "
                f"{'with' if trained else 'without'} it: leave it out"
            )
        usual[side] = part.usual_quick_gelu
        said = trained if part.quick_gelu is None else part.quick_gelu
        if said is not None:
            firm[side] = said
    opinions = set((firm or usual).values())
    if len(opinions) > 1:
        raise RecipeError(
            "image.quick_gelu and text.quick_gelu differ, as set or as their weights were trained; open_clip has one "
            "activation for both towers: take weights that agree, or a tower of another type"
        )
    return opinions == {True}


def build_core(
    image: Fragment, text: Fragment, model_cfg: dict[str, Any], init_scale: float
) -> tuple[CustomTextCLIP, list[Loaded]]:
    """Build the module, with weights that its backbones bring along; its scale is one-dimensional, which FSDP needs.

    Returns:
        The module, and what of it the backbones' weights are.

    Raises:
        RecipeError: A source refuses a setting, a setting would be ignored, or a backbone's weights are not whole.
    """
    text_cfg = {**model_cfg["text_cfg"], **text.building}
    _check_share(model_cfg["vision_cfg"])
    try:
        other = _other_encoder(text_cfg, model_cfg["embed_dim"])
        watch: AbstractContextManager[Gaps] = watching_gaps() if image.pretrained else nullcontext([])
        with watch as gaps:
            core = CustomTextCLIP(
                model_cfg["embed_dim"],
                vision_cfg={**model_cfg["vision_cfg"], **image.building},
                text_cfg=text_cfg if other is None else PLACEHOLDER,
                quick_gelu=model_cfg["quick_gelu"],
                init_logit_scale=math.log(init_scale),
                init_logit_bias=model_cfg.get("init_logit_bias"),
                nonscalar_logit_scale=True,
            )
    except (TypeError, AssertionError, KeyError, RuntimeError, ValueError, OSError) as error:
        raise RecipeError(_reason(error)) from error
    if other is not None:
        core.text, core.context_length, core.vocab_size = other, other.context_length, other.vocab_size
    loaded = []
    if image.pretrained:
        loaded.append(count_trunk(core.visual, gaps, image.pretrained))
    if text.pretrained:
        loaded.append(load_encoder(core.text, text.pretrained))
    if image.max_patches is not None:
        model_cfg["vision_cfg"]["image_size"] = make_native(core.visual, image.max_patches).square
    _check_image(core.visual, model_cfg)
    _check_text(core.text, model_cfg)
    make_class_token(core.text, sees_padding=text.class_token_sees_padding)
    make_packed(core.text)
    if "multimodal_cfg" in model_cfg:
        core.text_decoder = _build_decoder(model_cfg, core.text)
        join_decoder(core.text_decoder, core.visual, core.text)
    make_lean(core)
    _drop_patches_on_device(core.visual, model_cfg["vision_cfg"].get("patch_dropout", 0.0))
    is_whole = all(
        value.dtype == torch.float32 for value in (*core.parameters(), *core.buffers()) if value.is_floating_point()
    )
    return core if is_whole else core.float(), loaded  # tensors without content cannot be exchanged


def _build_decoder(model_cfg: dict[str, Any], text: nn.Module) -> CaptionDecoder:
    config = model_cfg["multimodal_cfg"]
    if LOCATING in config:
        return build_locating(config, model_cfg, token_table(text).num_embeddings)
    return build_gated(config, model_cfg) if GATED in config else build_decoder(config, model_cfg)


def _other_encoder(text_cfg: dict[str, Any], embed_dim: int) -> OtherEncoder | None:
    name = text_cfg.get("hf_model_name")
    if name is None or is_known_to_open_clip(AutoConfig.from_pretrained(name)):
        return None
    return OtherEncoder(text_cfg, embed_dim)


def set_grad_checkpointing(core: CustomTextCLIP) -> None:
    """Recompute activations in the backward pass, in both towers and in a decoder.

    Raises:
        RecipeError: A tower cannot.
    """
    visual, text = core.visual, core.text
    if (decoder := decoder_of(core)) is not None:
        decoder.set_grad_checkpointing(True)
    if isinstance(visual, ModifiedResNet):
        raise RecipeError("model.grad_checkpointing: open_clip's ResNet does not support it; timm's towers do")
    try:
        # open_clip's timm adapter would log the refusal and go on without
        (visual.trunk if isinstance(visual, TimmModel) else visual).set_grad_checkpointing(True)
    except (AssertionError, AttributeError, NotImplementedError, TypeError) as error:
        raise RecipeError(f"model.grad_checkpointing: the image tower does not support it ({error})") from error
    if not isinstance(text, HFTextEncoder):
        text.set_grad_checkpointing(True)
        return
    try:
        model = text.transformer
        older = model.gradient_checkpointing_enable  # its name until transformers 5 deprecated it
        getattr(model, "activation_checkpointing_enable", older)({"use_reentrant": False})
    except ValueError as error:
        raise RecipeError(f"model.grad_checkpointing: the text tower does not support it ({error})") from error


def _reason(error: Exception) -> str:
    """Say in the recipe's words why a source refused."""
    for argument, key in (("patch_drop_rate", "patch_drop"), ("drop_path_rate", "drop_path")):
        if isinstance(error, TypeError) and argument in str(error):
            return f"image.{key} has no effect on this backbone, which does not know it: remove it ({error})"
    return f"the towers cannot be built as set: {type(error).__name__}: {said_by(error, LONGEST)}"


def _check_share(config: Mapping[str, Any]) -> None:
    share = config.get("patch_dropout", 0.0)
    if not 0 <= share < 1:
        raise RecipeError(f"image.patch_dropout: {share} is no share of patches to leave out: 0 or more, and below 1")


def _check_image(visual: nn.Module, model_cfg: dict[str, Any]) -> None:
    config = model_cfg["vision_cfg"]
    if not isinstance(visual, TimmModel):
        return
    if config.get("timm_proj") == "none" and visual.trunk.num_features != model_cfg["embed_dim"]:
        raise RecipeError(
            f"image.proj 'none' gives {visual.trunk.num_features} numbers, model.embed_dim is {model_cfg['embed_dim']}"
        )
    drops = any(type(module).__name__.startswith("PatchDropout") for module in visual.modules())
    if config.get("patch_dropout") and not drops:
        raise RecipeError(f"image.patch_drop has no effect on '{config['timm_model_name']}': remove it")
    _try_one_image(visual, config)


def _try_one_image(visual: TimmModel, config: dict[str, Any]) -> None:
    # some backbones end wider than open_clip's adapter believes, others refuse a size only when they see it
    try:
        with torch.inference_mode():
            visual.eval()(one_image(visual))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise RecipeError(
            f"image.name: '{config['timm_model_name']}' does not fit open_clip's adapter at image size "
            f"{visual.image_size}, pool '{config.get('timm_pool')}', proj '{config.get('timm_proj')}': {error}"
        ) from error


def _check_text(text: nn.Module, model_cfg: dict[str, Any]) -> None:
    if isinstance(text, HFTextEncoder) and "proj" not in dict(text.named_children()):
        raise RecipeError(
            f"text.proj 'none' needs an encoder as wide as model.embed_dim {model_cfg['embed_dim']}: use 'linear'"
        )
    if isinstance(text, HFTextEncoder):
        _try_one_text(text, model_cfg["text_cfg"])


def _try_one_text(text: HFTextEncoder, config: dict[str, Any]) -> None:
    # RoBERTa and its like count positions from behind the padding's id, and have fewer than they say
    length, pad = config.get("context_length", 77), text.config.pad_token_id or 0
    try:
        with torch.inference_mode():
            text.eval()(one_text(text, length))
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        most = getattr(text.config, "max_position_embeddings", None)
        raise RecipeError(
            f"text.context_length: '{config['hf_model_name']}' cannot read {length} tokens"
            + (f" (it has {most} positions, of which its first {pad + 1} may be kept for padding)" if most else "")
            + f": take fewer, such as text.context_length={(most or length) - pad - 1} ({said_by(error, LONGEST)})"
        ) from error


def _drop_patches_on_device(visual: nn.Module, share: float) -> None:
    # open_clip draws on the CPU and indexes with CPU tensors, so the device would wait in every step
    if share and not isinstance(visual, TimmModel):
        visual.patch_dropout = timm.layers.PatchDropout(share, num_prefix_tokens=1)
