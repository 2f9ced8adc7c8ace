"""The dual encoder: pixels and tokens in, unit-norm float32 embeddings out; perhaps with a decoder of captions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vlp.ground.types import RecipeError
from vlp.towers.base import DecoderSource, Tower
from vlp.towers.build import build_core, join, set_grad_checkpointing
from vlp.towers.depth import blocks_behind, names_in_blocks
from vlp.towers.freeze import freeze as freeze_parameters
from vlp.towers.freeze import freeze_batch_norm, is_locked, rest_frozen_parts
from vlp.towers.learned_tokens import count_prompts, take_prompts
from vlp.towers.meaning import PREPROCESS_KEYS
from vlp.towers.more_tokens import copied
from vlp.towers.new_tokens import NewTokens, learn_words
from vlp.towers.recomputing import keep_products
from vlp.towers.sources import WeightFile, find_sources, trained_with
from vlp.towers.text import can_cut
from vlp.towers.token_table import grow, read_at_end, token_table
from vlp.towers.tokenizer_fit import check_tokenizer
from vlp.towers.tokenizers import PaddingTokenizer, TransformersTokenizer, frame, tokenizer_for
from vlp.towers.tuning.base import Tuning
from vlp.towers.two_towers import TwoTowers
from vlp.towers.view_dropout import ViewDropout
from vlp.towers.weights import load_weights

Color = tuple[float, float, float]


class DualEncoder(TwoTowers):
    """An image tower and a text tower that share one embedding space, and perhaps a decoder that writes captions.

    Args:
        embed_dim: Width of the embeddings; without it, that of the towers' open_clip configuration.
        init_scale: Inverse temperature at the start.
        max_scale: Largest inverse temperature that `clamp_` allows.
        learn_scale: Train the inverse temperature.
        init_bias: Bias of the logits at the start, for sigmoid losses; without it, that of the towers' open_clip
            configuration, or none.
        tuning: What of the towers trains; everything by default.
        freeze: Name patterns of what does not train, such as `visual` or `text.token_embedding`.
        lock_batch_norm: Keep batch norms as the weights have them, statistics included: a small batch would spoil them.
        grad_checkpointing: Keep few activations and recompute the others in the backward pass. True keeps what enters
            each block, for one forward pass more; `selective` also what matrix products, convolutions and attention
            give, and recomputes norms, activations, sums, casts and dropout alone.
        text_dropout: Share of what enters each block of the text tower that is dropped in all text views but the first,
            the caption as it stands (Fini et al. 2023, arXiv:2305.08675: 0.2 with 3 million pairs, 0.05 with 12).
        text_buckets: Groups of similar length that captions are split into, each padded to its longest; 1 for a single
            group. `auto`: no padding in half precision on a GPU, where torch (from 2.11) has a kernel for captions of
            any lengths and `train.deterministic` does not rule it out; four groups anywhere else.
        weights: Weights to start from: file, folder, run (`RUN` or `RUN:LABEL`), `hf-hub:ORG/NAME` or `NAME:TAG` of
            open_clip.
        mean: Mean of each colour, where the weights do not say.
        std: Standard deviation of each colour, where the weights do not say.
        interpolation: How evaluation resizes an image.
        resize_mode: Whether evaluation crops an image to its square centre (`shortest`), distorts it (`squash`) or
            pads it (`longest`).

    Attributes:
        model_cfg: open_clip's configuration of both towers.
        preprocess_cfg: open_clip's description of how evaluation prepares an image.
        loaded: How much of each tower came from which weights, in the order of reading.
        new_tokens: What the tokenizer has learned, if anything.
    """

    def __init__(
        self,
        image_tower: Tower,
        text_tower: Tower,
        tuning: Tuning | None = None,
        decoder: DecoderSource | None = None,
        *,
        embed_dim: int | None = None,
        init_scale: float = 14.2857,
        max_scale: float = 100.0,
        learn_scale: bool = True,
        init_bias: float | None = None,
        freeze: tuple[str, ...] = (),
        lock_batch_norm: bool = False,
        grad_checkpointing: bool | Literal["selective"] = False,
        text_dropout: float = 0.0,
        text_buckets: int | Literal["auto"] = "auto",
        weights: str | None = None,
        mean: Color | None = None,
        std: Color | None = None,
        interpolation: Literal["bicubic", "bilinear"] | None = None,
        resize_mode: Literal["shortest", "squash", "longest"] | None = None,
    ):
        super().__init__()
        for name, value in (("init_scale", init_scale), ("max_scale", max_scale), ("text_buckets", text_buckets)):
            if value != "auto" and value <= 0:
                raise RecipeError(f"model.{name}: {value} must be positive")
        if embed_dim is not None and embed_dim < 1:
            raise RecipeError(f"model.embed_dim: {embed_dim} must be at least 1")
        if init_scale > max_scale:
            raise RecipeError(f"model.init_scale: {init_scale:g} is above model.max_scale, {max_scale:g}")
        image, text = image_tower.fragment(), text_tower.fragment()
        sources = find_sources(image, text, weights)
        if weights is not None and init_bias is None:  # of one model, although another tower may stand in it
            init_bias = image.init_bias if text.init_bias is None else text.init_bias
        self.model_cfg = join(image, text, embed_dim, init_bias, trained_with(sources), decoder)
        self.core, self.loaded = build_core(image, text, self.model_cfg, init_scale)
        self.max_scale = max_scale
        self.text_buckets = text_buckets
        self.context_length: int = self.model_cfg["text_cfg"].get("context_length", 77)
        self.new_tokens = self._learn(text.new_tokens) if text.new_tokens else None
        expected: dict[str, Any] = {**image.preprocess}
        for part, file in sources.items():
            self.loaded += load_weights(
                self.core,
                file.path,
                part=part,
                source=file.name,
                adapters=file.adapters,
                new_tokens=self.new_tokens,
                num_known=self._check_new_tokens(part, file),
            )
            if part != "text.":
                expected.update(file.meaning.preprocess)
        chosen = {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": resize_mode}
        expected.update({key: value for key, value in chosen.items() if value is not None})
        self.preprocess_cfg = _preprocess(self.core.visual.image_size, expected)
        self.core.logit_scale.requires_grad_(learn_scale)
        if tuning is not None:
            tuning.apply(self.core)
        learned = {name: value for each in self.loaded for name, value in each.learned.items()}
        take_prompts(self.core, learned, ", ".join(each.source for each in self.loaded if each.learned))
        freeze_parameters(self.core, freeze)
        if lock_batch_norm:
            freeze_batch_norm(self.core)
        if grad_checkpointing:
            self._recompute(grad_checkpointing)
        if text_dropout and grad_checkpointing is True:
            raise RecipeError(
                "model.grad_checkpointing: true recomputes without model.text_dropout: take 'selective', or leave one "
                "of them out"
            )
        if self.decoder is not None and (self.new_tokens is not None or count_prompts(self.core.text)):
            raise RecipeError("model.decoder: it reads no learned tokens: leave it out, or text.new_tokens and prompts")
        self._view_dropout = ViewDropout(self.core.text, text_dropout) if text_dropout else None
        self.train()

    @property
    def has_batch_norm(self) -> bool:
        """Whether a batch normalisation trains: embeddings then depend on the rest of the (micro-)batch."""
        norms = [module for module in self.core.modules() if isinstance(module, _BatchNorm)]
        return any(norm.track_running_stats and not is_locked(norm) for norm in norms)

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Side of the square input, or height and width."""
        return self.preprocess_cfg["size"]

    def origins(self) -> list[str]:
        """Return, a line each, what the towers start from, and how much of them trains where that is not all."""
        sizes = [(value.numel(), value.requires_grad) for value in self.parameters()]
        trained, whole = sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
        share = [f"{trained:,} of {whole:,} parameters train"] if trained < whole else []
        learned = [str(self.new_tokens)] if self.new_tokens else []
        return [*map(str, self.loaded), *learned, *share]

    def blocks_behind(self) -> dict[str, int]:
        """Return, for each parameter of a tower, how many blocks come behind it; scale and bias lie in none."""
        return {
            part + name: number
            for part, tower in self._parts().items()
            for name, number in blocks_behind(tower).items()
        }

    def names_in_blocks(self) -> set[str]:
        """Return the names of the parameters that belong to a block of a tower."""
        return {part + name for part, tower in self._parts().items() for name in names_in_blocks(tower)}

    def _parts(self) -> dict[str, nn.Module]:
        parts = {"core.visual.": self.core.visual, "core.text.": self.core.text, "core.text_decoder.": self.decoder}
        return {name: part for name, part in parts.items() if part is not None}

    @cached_property
    def tokenizer(self) -> PaddingTokenizer:
        """The tokenizer of the text tower, loaded when first asked for; it leaves room for learned tokens.

        Raises:
            RecipeError: It cannot be loaded, or does not fit the tower.
        """
        text_cfg = self.model_cfg["text_cfg"]
        if self.new_tokens is None:
            tokenizer = tokenizer_for({**text_cfg, "context_length": self.caption_length})
        else:
            tokenizer = copied(self.new_tokens.tokenizer)
            tokenizer.context_length = self.caption_length
        check_tokenizer(self.core.text, text_cfg, tokenizer)
        return tokenizer

    def take_tokenizer(self, tokenizer: TransformersTokenizer) -> None:
        """Read captions with a tokenizer that has more tokens, for which the text tower has rows.

        The configuration names no place of it: an export has it beside.

        Raises:
            RecipeError: It does not fit the tower.
        """
        self._read_with(tokenizer)
        self.tokenizer = tokenizer

    def _read_with(self, tokenizer: TransformersTokenizer) -> None:
        text, text_cfg = self.core.text, self.model_cfg["text_cfg"]
        text_cfg["tokenizer_kwargs"] = {**(text_cfg.get("tokenizer_kwargs") or {}), "clean": tokenizer.cleaning}
        text_cfg |= read_at_end(text, frame(tokenizer)[1])
        check_tokenizer(text, text_cfg, tokenizer)

    def _recompute(self, how: Literal[True, "selective"]) -> None:
        if how == "selective":
            keep_products(*self._parts().values())
        else:
            set_grad_checkpointing(self.core)
        if self.has_batch_norm:
            raise RecipeError(
                "model.grad_checkpointing: would count each batch twice in the statistics of batch norms: set "
                "model.lock_batch_norm=true, or leave it out"
            )

    def _learn(self, words: tuple[str, ...]) -> NewTokens:
        text = self.core.text
        found = learn_words(tokenizer_for(self.model_cfg["text_cfg"]), words, sees_padding=not can_cut(text))
        grow(text, found.ids, found.means(token_table(text).weight))
        self._read_with(found.tokenizer)
        return found

    def _check_new_tokens(self, part: str, file: WeightFile) -> int:
        """Return how many of the new tokens weights have too."""
        if part == "visual." or not file.new_tokens:
            return 0
        if self.new_tokens is None:
            raise RecipeError(
                f"text.new_tokens: '{file.name}' was trained with {len(file.new_tokens)} words of its own: give them, "
                "as they stand in its recipe.lock.yaml"
            )
        return self.new_tokens.check_begins_with(file.new_tokens, file.name)

    def train(self, mode: bool = True) -> DualEncoder:
        """Switch the mode; what is locked stays in evaluation mode."""
        super().train(mode)
        rest_frozen_parts(self.core)
        return self

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Be in evaluation mode for a while: nothing is dropped, and batch norms use what they have averaged."""
        if not self.training:  # to tell every module again takes longer than a small tower
            yield
            return
        self.eval()
        try:
            yield
        finally:
            self.train()

    @torch.no_grad()
    def clamp_(self, *beside: Tensor) -> None:
        """Keep the inverse temperature between 1 and `max_scale`; call it after each step.

        Args:
            beside: Further logarithms of it, which an optimizer moves beside the parameter.
        """
        for logarithm in (self.core.logit_scale, *beside):
            logarithm.clamp_(0.0, math.log(self.max_scale))


def _preprocess(image_size: int | tuple[int, int], expected: dict[str, Any]) -> dict[str, Any]:
    """Return open_clip's `preprocess_cfg`, its defaults made explicit."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    size = height if height == width else (height, width)
    known: dict[str, Any] = {key: value for key, value in expected.items() if key in PREPROCESS_KEYS}
    config = PreprocessCfg(size=size, **known)
    return {**asdict(config), "mean": tuple(config.mean), "std": tuple(config.std)}
