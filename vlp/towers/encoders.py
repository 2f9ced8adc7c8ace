"""Encoders of transformers that open_clip has no table for: the same pooling and projection around any family."""

from __future__ import annotations

from typing import Any

from open_clip.hf_configs import arch_dict
from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, HFTextEncoder, MeanPooler
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

POOLERS = {
    "mean_pooler": MeanPooler,
    "cls_pooler": ClsPooler,
    "cls_last_hidden_state_pooler": ClsLastHiddenStatePooler,
}


def is_known_to_open_clip(config: PretrainedConfig) -> bool:
    """Whether open_clip builds this family itself, and so loads an export of it."""
    return config.model_type in arch_dict


class OtherEncoder(HFTextEncoder):
    """Any encoder that AutoModel builds, behind the interface of open_clip's adapter.

    Args:
        text_cfg: open_clip's `text_cfg` with `hf_model_name`, `hf_pooler_type`, `hf_proj_type`.
        embed_dim: Width of the embedding.
    """

    def __init__(self, text_cfg: dict[str, Any], embed_dim: int):
        nn.Module.__init__(self)
        name, pooler = text_cfg["hf_model_name"], text_cfg["hf_pooler_type"]
        self.output_tokens = False
        self.output_dim = embed_dim
        self.config = AutoConfig.from_pretrained(name)
        self.transformer = AutoModel.from_config(self.config)
        if self.config.is_encoder_decoder:
            self.transformer = self.transformer.encoder
        if pooler != "cls_pooler" and isinstance(getattr(self.transformer, "pooler", None), nn.Module):
            self.transformer.pooler = None  # a parameter without a gradient would stop data parallelism
        self.vocab_size = self.config.vocab_size
        self.context_length = text_cfg["context_length"]
        self.pooler = POOLERS[pooler]()
        self.proj = _projection(text_cfg["hf_proj_type"], self.config.hidden_size, embed_dim)


def _projection(kind: str | None, width: int, embed_dim: int) -> nn.Module:
    if kind is None:
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, embed_dim, bias=False)
    middle = (width + embed_dim) // 2
    return nn.Sequential(nn.Linear(width, middle, bias=False), nn.GELU(), nn.Linear(middle, embed_dim, bias=False))
