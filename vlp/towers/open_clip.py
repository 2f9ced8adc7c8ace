"""Towers of open_clip: by name, by configuration, or spelled out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vlp.ground.ranges import Count, Positive, Whole
from vlp.ground.types import RecipeError
from vlp.towers.base import Fragment, caption_decoders, image_towers, text_towers
from vlp.towers.new_tokens import read_words
from vlp.towers.sources import folder_of, read_config

ImageSize = Count | tuple[Count, Count]


@image_towers.register("open_clip")
class OpenClipImage:
    """The image tower of an open_clip model.

    Args:
        name: Model name, path of a JSON configuration, folder with `open_clip_config.json`, or `hf-hub:ORG/NAME`.
        image_size: Replaces the configured input size.
        patch_dropout: Share of patches that a training step leaves out (arXiv:2212.00794).
        quick_gelu: Whether the blocks compute with QuickGELU, the sigmoid approximation of the first CLIP models; by
            default as the weights were trained, else as the model is configured.
        weights: Weights of this tower alone: file, folder, `hf-hub:ORG/NAME` or `NAME:TAG`.
    """

    def __init__(
        self,
        *,
        name: str,
        image_size: ImageSize | None = None,
        patch_dropout: float | None = None,
        quick_gelu: bool | None = None,
        weights: str | None = None,
    ):
        self.name = name
        self.image_size = image_size
        self.patch_dropout = patch_dropout
        self.quick_gelu = quick_gelu
        self.weights = weights

    def fragment(self) -> Fragment:
        source = read_config(self.name)
        model = source["model_cfg"]
        config = dict(model["vision_cfg"])
        is_timm = "timm_model_name" in config
        if isinstance(config.get("layers"), list) and self.patch_dropout:
            raise RecipeError(f"image.patch_dropout has no effect on '{self.name}', a convolutional network: remove it")
        if self.image_size is not None:
            if is_timm:
                trunk = config["timm_model_name"]
                raise RecipeError(
                    f"image.image_size: '{self.name}' has timm's tower {trunk}, which has the size of its name: choose "
                    "another: model.image={type: timm, name: vit_base_patch16_siglip_384, pool: map, proj: none}; "
                    "positions are interpolated"
                )
            config["image_size"] = self.image_size
        if self.patch_dropout is not None:
            config["patch_dropout"] = self.patch_dropout
        if is_timm:
            config["timm_model_pretrained"] = False
        return Fragment(
            config,
            embed_dim=model["embed_dim"],
            quick_gelu=self.quick_gelu,
            usual_quick_gelu=None if is_timm else model.get("quick_gelu", False),
            init_bias=model.get("init_logit_bias"),
            preprocess=source["preprocess_cfg"],
            weights=self.weights,
            model_name=self.name,
            max_patches=source["max_patches"],
        )


@text_towers.register("open_clip")
class OpenClipText:
    """The text tower of an open_clip model.

    Args:
        name: Model name, path of a JSON configuration, folder with `open_clip_config.json`, or `hf-hub:ORG/NAME`.
        context_length: Replaces the configured number of tokens.
        tokenizer: Hub id or folder of the transformers tokenizer, for a configuration that needs one.
        quick_gelu: Whether the blocks compute with QuickGELU, the sigmoid approximation of the first CLIP models; by
            default as the weights were trained, else as the model is configured.
        correct_cls_mask: Let the class token of a CoCa see its caption and itself, and no padding; by default as the
            model is configured, which for all of open_clip's is one place off.
        new_tokens: Words that become tokens of the tokenizer, or a file with one on each line; each begins as the mean
            of the pieces that it was read as.
        weights: Weights of this tower alone: file, folder, `hf-hub:ORG/NAME` or `NAME:TAG`.
    """

    def __init__(
        self,
        *,
        name: str,
        context_length: Count | None = None,
        tokenizer: str | None = None,
        quick_gelu: bool | None = None,
        correct_cls_mask: bool | None = None,
        new_tokens: tuple[str, ...] | str = (),
        weights: str | None = None,
    ):
        self.name = name
        self.context_length = context_length
        self.tokenizer = tokenizer
        self.quick_gelu = quick_gelu
        self.correct_cls_mask = correct_cls_mask
        self.new_tokens = new_tokens
        self.weights = weights

    def fragment(self) -> Fragment:
        source = read_config(self.name)
        model = source["model_cfg"]
        config = dict(model["text_cfg"])
        is_transformers = "hf_model_name" in config
        if self.correct_cls_mask is not None and not config.get("embed_cls"):
            raise RecipeError(f"text.correct_cls_mask has no effect on '{self.name}', without a class token: remove it")
        correct = source["correct_cls_mask"] if self.correct_cls_mask is None else self.correct_cls_mask
        if self.context_length is not None:
            config["context_length"] = self.context_length
        if is_transformers:
            config["hf_model_pretrained"] = False
        if folder := folder_of(self.name):  # what the folder holds goes before an address written elsewhere
            if is_transformers and (folder / "config.json").is_file():
                config["hf_model_name"] = str(folder)
            if config.get("hf_tokenizer_name"):
                config["hf_tokenizer_name"] = str(folder)
        if self.tokenizer:
            config["hf_tokenizer_name"] = self.tokenizer
        return Fragment(
            config,
            embed_dim=model["embed_dim"],
            quick_gelu=self.quick_gelu,
            usual_quick_gelu=None if is_transformers else model.get("quick_gelu", False),
            init_bias=model.get("init_logit_bias"),
            weights=self.weights,
            model_name=self.name,
            class_token_sees_padding=not correct,
            new_tokens=read_words(self.new_tokens),
        )


@image_towers.register("vit")
class VisionTransformer:
    """A vision transformer of open_clip, spelled out.

    Args:
        layers: Number of blocks.
        width: Width of the residual stream.
        head_width: Width of one attention head.
        patch_size: Side of a patch in pixels.
        image_size: Side of the square input, or height and width.
        mlp_ratio: Width of the hidden layer of a block relative to `width`.
        patch_dropout: Share of patches that a training step leaves out (arXiv:2212.00794).
        pool: `tok` reads the class token, `avg` the mean of the patches.
        pooler_queries: Read the image with so many learned queries, each as wide as the embedding, in place of `pool`
            (CoCa's attentional pooler, arXiv:2205.01917): the first becomes the embedding, the others are for a decoder
            of captions, which otherwise reads the patches; 257 are one and 256.
        pooler_heads: Of the attention of these queries.
        quick_gelu: Whether the blocks compute with QuickGELU, the sigmoid approximation of the first CLIP models; by
            default as the weights were trained, else not.
        weights: Weights of this tower alone: file, folder, `hf-hub:ORG/NAME` or `NAME:TAG`.
    """

    def __init__(
        self,
        *,
        layers: Count = 12,
        width: Count = 768,
        head_width: Count = 64,
        patch_size: Count = 16,
        image_size: ImageSize = 224,
        mlp_ratio: Positive = 4.0,
        patch_dropout: float = 0.0,
        pool: Literal["tok", "avg"] = "tok",
        pooler_queries: Count | None = None,
        pooler_heads: Count = 8,
        quick_gelu: bool | None = None,
        weights: str | None = None,
    ):
        if width % head_width:
            raise RecipeError(f"image.head_width {head_width} does not divide image.width {width}")
        if pooler_queries is not None and pool != "tok":
            raise RecipeError(f"image.pool '{pool}' has no effect beside image.pooler_queries: leave it out")
        self.quick_gelu = quick_gelu
        self.weights = weights
        self.config: dict[str, Any] = {
            "layers": layers,
            "width": width,
            "head_width": head_width,
            "patch_size": patch_size,
            "image_size": image_size,
            "mlp_ratio": mlp_ratio,
            "patch_dropout": patch_dropout,
            "pool_type": pool,
        }
        if pooler_queries is not None:
            self.config |= {"attentional_pool": True, "attn_pooler_queries": pooler_queries}
            self.config["attn_pooler_heads"] = pooler_heads

    def fragment(self) -> Fragment:
        return Fragment(self.config, quick_gelu=self.quick_gelu, usual_quick_gelu=False, weights=self.weights)


@text_towers.register("transformer")
class TextTransformer:
    """A text transformer of open_clip, spelled out.

    Args:
        layers: Number of blocks.
        width: Width of the residual stream.
        heads: Number of attention heads.
        context_length: Tokens per caption; longer captions are cut.
        vocab_size: Number of token ids.
        mlp_ratio: Width of the hidden layer of a block relative to `width`.
        causal: Let a token see only those before it.
        pool: Which token speaks for the caption: the one of the highest id (CLIP's end token), the end token
            `end_id`, the first, the last, or one that is added behind the caption, sees it whole and is not seen by it
            (`cls`, as in CoCa, arXiv:2205.01917).
        end_id: Id of the end token, for `pool: eos`.
        pad_id: Id that fills short captions.
        proj_bias: Give the last projection a bias, as SigLIP does.
        norm_eps: Added to the variance by layer norms.
        quick_gelu: Whether the blocks compute with QuickGELU, the sigmoid approximation of the first CLIP models; by
            default as the weights were trained, else not.
        tokenizer: Hub id or folder of a transformers tokenizer; CLIP's byte pairs without one.
        new_tokens: Words that become tokens of the tokenizer, or a file with one on each line; each begins as the mean
            of the pieces that it was read as.
        weights: Weights of this tower alone: file, folder, `hf-hub:ORG/NAME` or `NAME:TAG`.
    """

    def __init__(
        self,
        *,
        layers: Count = 12,
        width: Count = 512,
        heads: Count = 8,
        context_length: Count = 77,
        vocab_size: Count = 49408,
        mlp_ratio: Positive = 4.0,
        causal: bool = True,
        pool: Literal["argmax", "eos", "first", "last", "cls"] = "argmax",
        end_id: Whole = 49407,
        pad_id: Whole = 0,
        proj_bias: bool = False,
        norm_eps: Positive = 1e-5,
        quick_gelu: bool | None = None,
        tokenizer: str | None = None,
        new_tokens: tuple[str, ...] | str = (),
        weights: str | None = None,
    ):
        if width % heads:
            raise RecipeError(f"text.heads {heads} does not divide text.width {width}")
        if causal and pool in ("first", "last"):
            raise RecipeError(f"text.pool '{pool}' of a causal tower does not see the caption: use 'argmax' or 'eos'")
        if pool == "cls" and not causal:
            raise RecipeError("text.pool 'cls' is of a causal tower, whose tokens it is hidden from: use 'first'")
        self.quick_gelu = quick_gelu
        self.new_tokens = new_tokens
        self.weights = weights
        self.config: dict[str, Any] = {
            "layers": layers,
            "width": width,
            "heads": heads,
            "context_length": context_length,
            "vocab_size": vocab_size,
            "mlp_ratio": mlp_ratio,
            "no_causal_mask": not causal,
            "pool_type": "argmax" if pool == "cls" else pool,
            "eos_id": end_id,
            "pad_id": pad_id,
            "proj_bias": proj_bias,
            "norm_kwargs": {"eps": norm_eps},
        }
        if pool == "cls":
            self.config["embed_cls"] = True
        if tokenizer:
            self.config["hf_tokenizer_name"] = tokenizer

    def fragment(self) -> Fragment:
        return Fragment(
            self.config,
            quick_gelu=self.quick_gelu,
            usual_quick_gelu=False,
            weights=self.weights,
            new_tokens=read_words(self.new_tokens),
        )


@caption_decoders.register("open_clip")
class OpenClipDecoder:
    """The decoder of a CoCa of open_clip.

    Args:
        name: Model name, path of a JSON configuration, folder with `open_clip_config.json`, or `hf-hub:ORG/NAME`.
    """

    def __init__(self, *, name: str):
        self.name = name

    def config(self, text_cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return how it is configured, for a text tower that may have another context."""
        found = read_config(self.name)["model_cfg"].get("multimodal_cfg")
        if found is None:
            raise RecipeError(f"model.decoder.name: '{self.name}' has no decoder of captions: leave model.decoder out")
        return {"width": 512, "layers": 12, "heads": 8} | found | _of_text(text_cfg)


@caption_decoders.register("transformer")
class TransformerDecoder:
    """A decoder of captions, spelled out: as wide as the text tower, with its words.

    Yu et al. 2022 (arXiv:2205.01917): `layers` blocks that attend to the caption so far, each followed by one that
    attends to the tokens of the image.

    Args:
        layers: Number of blocks of either kind.
        heads: Number of attention heads.
    """

    def __init__(self, *, layers: Count = 12, heads: Count = 8):
        self.layers = layers
        self.heads = heads

    def config(self, text_cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return it as open_clip would have it."""
        width = text_cfg.get("width", 512)
        if width % self.heads:
            raise RecipeError(f"model.decoder.heads {self.heads} does not divide the width {width} of the text tower")
        return {"width": width, "layers": self.layers, "heads": self.heads, **_of_text(text_cfg)}


def _of_text(text_cfg: Mapping[str, Any]) -> dict[str, Any]:
    return {"context_length": text_cfg.get("context_length", 77), "vocab_size": text_cfg.get("vocab_size", 49408)}
