"""Image towers of timm: convolutional, transformer and hybrid backbones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import timm
from timm.models import PretrainedCfg, load_model_config_from_hf
from timm.models._hub import load_model_config_from_path

import vlp.towers.small_naflex  # noqa: F401 - one more model for timm to name
from vlp.ground.ranges import Count, Share
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError
from vlp.towers.base import Fragment, image_towers
from vlp.towers.sources import LOCAL, folder_of


@image_towers.register("timm")
class TimmImage:
    """A timm backbone with an optional projection.

    Args:
        name: Model name of timm (with or without weight tag), `hf-hub:ORG/NAME`, or a folder with timm's `config.json`.
        image_size: Side of the square input, or height and width; the backbone's own without one.
        pool: How the trunk reduces its feature map: `avg`, `map`, `token`, ... as timm names them, `abs_attn` or
            `rot_attn` for open_clip's attention pools, empty for the backbone's own.
        proj: Projection to the embedding: `linear`, `mlp`, `none` (the trunk is as wide as the embedding), or empty
            for the trunk's classifier.
        proj_bias: Give the projection a bias.
        drop: Dropout before a linear projection or inside an mlp.
        drop_path: Share of residual branches left out in training.
        patch_drop: Share of patches left out in training.
        pretrained: Start the trunk from timm's weights, and use their mean and standard deviation.
        weights: Weights of the whole tower: file, folder, `hf-hub:ORG/NAME` or `NAME:TAG` of open_clip.
        max_patches: Read each image at its own aspect ratio, as large as so many patches cover (256 in SigLIP 2's
            NaFlex); for names `naflexvit_*`. Without it, all images have one size.
    """

    def __init__(
        self,
        *,
        name: str,
        image_size: Count | tuple[Count, Count] | None = None,
        pool: str = "avg",
        proj: Literal["linear", "mlp", "none", ""] = "linear",
        proj_bias: bool = False,
        drop: Share = 0.0,
        drop_path: Share | None = None,
        patch_drop: Share = 0.0,
        pretrained: bool = False,
        weights: str | None = None,
        max_patches: Count | None = None,
    ):
        if drop and proj not in ("linear", "mlp"):
            raise RecipeError(f"image.drop has no effect with image.proj '{proj}': use 'linear' or 'mlp'")
        if pretrained and weights:
            raise RecipeError("image.pretrained and image.weights name two sources of weights: remove one")
        _check_native(max_patches, image_size, patch_drop)
        self.pretrained = pretrained
        self.weights = weights
        self.max_patches = max_patches
        self.source = f"{LOCAL}{folder_of(name)}" if folder_of(name) else name
        self.name, self.cfg = _describe(self.source)
        self.config: dict[str, Any] = {
            "timm_model_name": self.name,
            "timm_model_pretrained": False,
            "timm_pool": pool,
            "timm_proj": proj,
            "timm_proj_bias": proj_bias,
            "timm_drop": drop,
            "timm_drop_path": drop_path,
            "patch_dropout": patch_drop,
            "image_size": self._size(image_size),
        }

    def fragment(self) -> Fragment:
        preprocess = {}
        if self.pretrained:
            preprocess = {"mean": tuple(self.cfg.mean), "std": tuple(self.cfg.std)}
            if self.cfg.interpolation in ("bicubic", "bilinear"):
                preprocess["interpolation"] = self.cfg.interpolation
        pretrained = f"timm's {self.source.removeprefix(LOCAL)}" if self.pretrained else None
        building = {"timm_model_name": self.source, "timm_model_pretrained": self.pretrained}
        return Fragment(
            self.config,
            building,
            preprocess=preprocess,
            weights=self.weights,
            pretrained=pretrained,
            max_patches=self.max_patches,
        )

    def _size(self, wanted: int | tuple[int, int] | None) -> int | tuple[int, int]:
        height, width = self.cfg.input_size[1:]
        own = height if height == width else (height, width)
        if wanted is None or wanted == own:
            return own
        if self.cfg.fixed_input_size:
            raise RecipeError(
                f"image.image_size {wanted}: timm's '{self.name}' is built for {own} and open_clip cannot load it at "
                f"another size; choose a timm model of that size, or `type: vit`"
            )
        return wanted


def _check_native(max_patches: int | None, image_size: int | tuple[int, int] | None, patch_drop: float) -> None:
    if max_patches is not None and image_size is not None:
        raise RecipeError("image.image_size: each image has a size of its own, by image.max_patches: leave one out")
    if max_patches is not None and patch_drop:
        raise RecipeError(
            "image.patch_drop: would leave out patches and padding alike, and with image.max_patches images have other "
            "numbers of them: set it to 0; fewer image.max_patches save as much"
        )


def _describe(source: str) -> tuple[str, Any]:
    """Return the architecture's name (portable) and timm's description of it."""
    if source.startswith(LOCAL):
        return _describe_folder(Path(source.removeprefix(LOCAL)))
    if source.startswith("hf-hub:"):
        try:
            cfg, name, arguments = load_model_config_from_hf(source.removeprefix("hf-hub:"))
        except Exception as error:  # the hub client raises its own, the network's and the disk's errors
            raise RecipeError(f"image.name: cannot fetch '{source}': {error}") from error
        _refuse_arguments(source, arguments)
        return name, PretrainedCfg(**cfg)
    if not timm.is_model(source):
        known = timm.list_models()
        raise RecipeError(
            f"timm has no model '{source}'{nearest(source, known)}; a folder with its config.json works too"
        )
    return source, timm.get_pretrained_cfg(source) or PretrainedCfg()


def _describe_folder(folder: Path) -> tuple[str, Any]:
    if not (folder / "config.json").is_file():
        raise RecipeError(f"image.name: no config.json of timm in '{folder}'")
    _refuse_arguments(str(folder), json.loads((folder / "config.json").read_text()).get("model_args"))
    cfg, name, _ = load_model_config_from_path(str(folder))
    return name, PretrainedCfg(**cfg)


def _refuse_arguments(source: str, arguments: Any) -> None:
    if arguments:
        raise RecipeError(f"image.name: '{source}' needs model arguments {arguments}, which open_clip cannot pass on")
