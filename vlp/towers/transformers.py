"""Text towers of transformers: any encoder by hub id or folder."""

from __future__ import annotations

from typing import Any, Literal

from transformers import AutoConfig, PretrainedConfig

from vlp.ground.ranges import Count
from vlp.ground.types import RecipeError
from vlp.towers.base import Fragment, text_towers
from vlp.towers.new_tokens import read_words
from vlp.towers.sources import folder_of


@text_towers.register("transformers")
class TransformersText:
    """A transformers encoder with a pooler and a projection.

    open_clip loads exports of the families that it builds itself (BERT, RoBERTa, XLM-R, mT5, M2M-100).

    Args:
        name: Hub id, or a folder with `config.json` (and weights, if `pretrained`).
        pretrained: Start from its weights instead of random ones.
        pooler: Mean over the tokens, the encoder's own pooler, or its first hidden state.
        proj: Projection to the embedding; `none` where the encoder is as wide as the embedding.
        context_length: Tokens per caption; longer captions are cut.
        tokenizer: Hub id or folder of the tokenizer, where it is not `name`.
        new_tokens: Words that become tokens of the tokenizer, or a file with one on each line; each begins as the mean
            of the pieces that it was read as.
        weights: Weights of the whole tower: file, folder, `hf-hub:ORG/NAME` or `NAME:TAG` of open_clip.
    """

    def __init__(
        self,
        *,
        name: str,
        pretrained: bool = False,
        pooler: Literal["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"] = "mean_pooler",
        proj: Literal["linear", "mlp", "none"] = "linear",
        context_length: Count = 77,
        tokenizer: str | None = None,
        new_tokens: tuple[str, ...] | str = (),
        weights: str | None = None,
    ):
        if pretrained and weights:
            raise RecipeError("text.pretrained and text.weights name two sources of weights: remove one")
        self.name = str(folder_of(name) or name)
        self.pretrained = pretrained
        self.new_tokens = new_tokens
        self.weights = weights
        self.width = _check(self.name, read_encoder_config(self.name), context_length)
        self.has_projection = proj != "none"
        self.config: dict[str, Any] = {
            "hf_model_name": self.name,
            "hf_model_pretrained": False,
            "hf_tokenizer_name": tokenizer or self.name,
            "hf_pooler_type": pooler,
            "hf_proj_type": proj if self.has_projection else None,
            "context_length": context_length,
        }

    def fragment(self) -> Fragment:
        return Fragment(
            self.config,
            embed_dim=None if self.has_projection else self.width,
            weights=self.weights,
            pretrained=self.name if self.pretrained else None,
            new_tokens=read_words(self.new_tokens),
        )


def read_encoder_config(name: str) -> PretrainedConfig:
    """Return the encoder's configuration.

    Raises:
        RecipeError: Neither a folder nor the hub has it.
    """
    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:  # transformers raises its own, the hub's and the network's errors
        raise RecipeError(f"text.name: no transformers configuration at '{name}': {error}") from error


def _check(name: str, config: PretrainedConfig, context_length: int) -> int:
    """Return the encoder's width; refuse what could not be masked or is too short."""
    if config.pad_token_id is None:
        raise RecipeError(f"text.name: '{name}' has no padding token, so short captions could not be masked")
    longest = getattr(config, "max_position_embeddings", None) or context_length
    if context_length > longest:
        raise RecipeError(f"text.context_length {context_length} is more than the {longest} positions of '{name}'")
    width: int = config.hidden_size
    return width
