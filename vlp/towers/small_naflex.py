"""A NaFlexVit smaller than timm names any, for recipes that show the way in a minute; importing registers it."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

__all__: list[str] = []  # timm adds the names of models

PATCH, GRID = 8, 6
default_cfgs = generate_default_cfgs(
    {
        "naflexvit_micro_patch8_siglip.untrained": {
            "input_size": (3, GRID * PATCH, GRID * PATCH), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
            "first_conv": "embeds.proj", "classifier": "head",
        }
    }
)  # fmt: skip


@register_model
def naflexvit_micro_patch8_siglip(pretrained: bool = False, **settings: Any) -> NaFlexVit:
    """Return four blocks of width 128 that pool by attention, as those of SigLIP 2 do (arXiv:2502.14786)."""
    cfg = NaFlexVitCfg(
        patch_size=PATCH,
        embed_dim=128,
        depth=4,
        num_heads=4,
        act_layer="gelu_tanh",
        global_pool="map",
        pos_embed_grid_size=(GRID, GRID),
        pos_embed_interp_mode="bilinear",
    )
    built: NaFlexVit = build_model_with_cfg(
        NaFlexVit, "naflexvit_micro_patch8_siglip", pretrained=pretrained, cfg=cfg, **settings
    )
    return built
