"""What every tower offers: a fragment of open_clip's model configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from vlp.ground.registry import Registry


@dataclass(frozen=True)
class Fragment:
    """One tower's part of an open_clip model configuration, and what building it takes beyond that.

    Args:
        config: `vision_cfg` or `text_cfg`; holds nothing that only this machine knows, unless the user named it.
        building: Entries that replace those of `config` while the tower is built (weights of a backbone).
        embed_dim: Width that the tower was configured for, where its source says one.
        quick_gelu: Whether open_clip's own blocks compute with QuickGELU, where the user says so.
        usual_quick_gelu: The same where neither the user nor the weights say; None for a tower that brings its own.
        init_bias: First value of the logit bias, where the source says one.
        preprocess: Entries of open_clip's `preprocess_cfg` that the tower's weights expect.
        weights: Where this tower's weights come from; read by `vlp.towers.weights`.
        model_name: The open_clip model that it was configured for, where one is named.
        pretrained: Where the backbone's own weights come from, which building it reads.
        class_token_sees_padding: Whether a text tower with a class token has open_clip's mask for it.
        new_tokens: Words that the tokenizer gets as tokens.
        max_patches: Patches of an image at most, for a tower that reads each at its own aspect ratio.
    """

    config: Mapping[str, Any]
    building: Mapping[str, Any] = field(default_factory=dict)
    embed_dim: int | None = None
    quick_gelu: bool | None = None
    usual_quick_gelu: bool | None = None
    init_bias: float | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    model_name: str | None = None
    pretrained: str | None = None
    class_token_sees_padding: bool = False
    new_tokens: tuple[str, ...] = ()
    max_patches: int | None = None


class DecoderSource(Protocol):
    """A source of caption decoders; its keyword-only arguments are the settings."""

    def config(self, text_cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return open_clip's `multimodal_cfg` for a text tower."""


class Tower(Protocol):
    """A source of image or text towers; its keyword-only arguments are the settings."""

    def fragment(self) -> Fragment: ...


image_towers: Registry[Tower] = Registry("image tower", "vlp.towers")
text_towers: Registry[Tower] = Registry("text tower", "vlp.towers")
caption_decoders: Registry[DecoderSource] = Registry("caption decoder", "vlp.towers")
