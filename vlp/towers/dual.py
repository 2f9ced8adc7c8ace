"""The dual encoder: pixels and tokens in, unit-norm float32 embeddings out; perhaps with a decoder of captions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vlp.ground.types import Embeddings, RecipeError
from vlp.towers.base import DecoderSource, Tower
from vlp.towers.before_projection import image_and_features, text_and_features
from vlp.towers.build import build_core, join, set_grad_checkpointing
from vlp.towers.caption_decoder import CaptionDecoder, decoder_of
from vlp.towers.depth import blocks_behind, names_in_blocks
from vlp.towers.freeze import freeze as freeze_parameters
from vlp.towers.freeze import freeze_batch_norm, is_locked, rest_frozen_parts
from vlp.towers.meaning import PREPROCESS_KEYS
from vlp.towers.sources import find_sources, trained_with
from vlp.towers.text import can_cut, embed_cut, embed_full
from vlp.towers.tokenizer_fit import check_tokenizer
from vlp.towers.tokenizers import PaddingTokenizer, tokenizer_for
from vlp.towers.tuning.base import Tuning
from vlp.towers.view_dropout import ViewDropout
from vlp.towers.weights import load_weights

Color = tuple[float, float, float]


class DualEncoder(nn.Module):
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
        grad_checkpointing: Keep few activations and recompute the others in the backward pass.
        text_dropout: Share of what enters each block of the text tower that is dropped in all text views but the first,
            the caption as it stands (Fini et al. 2023, arXiv:2305.08675: 0.2 with 3 million pairs, 0.05 with 12).
        text_buckets: Groups of similar length that captions are split into; 1 for a single group.
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
        hands_out_features: Whether `forward` returns what the towers know before their projections, too.
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
        grad_checkpointing: bool = False,
        text_dropout: float = 0.0,
        text_buckets: int = 4,
        weights: str | None = None,
        mean: Color | None = None,
        std: Color | None = None,
        interpolation: Literal["bicubic", "bilinear"] | None = None,
        resize_mode: Literal["shortest", "squash", "longest"] | None = None,
    ):
        super().__init__()
        for name, value in (("init_scale", init_scale), ("max_scale", max_scale), ("text_buckets", text_buckets)):
            if value <= 0:
                raise RecipeError(f"model.{name}: {value} must be positive")
        image, text = image_tower.fragment(), text_tower.fragment()
        sources = find_sources(image, text, weights)
        self.model_cfg = join(image, text, embed_dim, init_bias, trained_with(sources), decoder)
        self.core, self.loaded = build_core(image, text, self.model_cfg, init_scale)
        self.max_scale = max_scale
        self.text_buckets = text_buckets
        self.context_length: int = self.model_cfg["text_cfg"].get("context_length", 77)
        expected: dict[str, Any] = {**image.preprocess}
        for part, file in sources.items():
            self.loaded += load_weights(self.core, file.path, part=part, source=file.name, adapters=file.adapters)
            if part != "text.":
                expected.update(file.meaning.preprocess)
        chosen = {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": resize_mode}
        expected.update({key: value for key, value in chosen.items() if value is not None})
        self.preprocess_cfg = _preprocess(self.core.visual.image_size, expected)
        self.core.logit_scale.requires_grad_(learn_scale)
        if tuning is not None:
            tuning.apply(self.core)
        freeze_parameters(self.core, freeze)
        if lock_batch_norm:
            freeze_batch_norm(self.core)
        if grad_checkpointing:
            set_grad_checkpointing(self.core)
        if text_dropout and grad_checkpointing:
            raise RecipeError("model.grad_checkpointing: recomputes without model.text_dropout: leave one of them out")
        self._view_dropout = ViewDropout(self.core.text, text_dropout) if text_dropout else None
        self.hands_out_features = False
        self.train()

    def forward(
        self,
        images: Float[Tensor, "v n 3 h w"],
        tokens: Int64[Tensor, "w n l"],
        lengths: Int64[NDArray[np.int64], "w n"],
        known: Float32[Tensor, "v n d"] | None = None,
    ) -> Embeddings:
        """Embed every view; the first of each modality leads.

        Args:
            images: Normalised pixels.
            lengths: On the CPU, so that cutting captions does not wait for the device, and no tensor: DDP and FSDP2
                move every tensor to the device.
            known: Embeddings of the images, which nobody looks at then.
        """
        image, seen, image_tokens = (known, (), None) if known is not None else self._image_views(images)
        text, read, text_tokens = self._text_views(tokens, lengths)
        losses = None
        if self.decoder is not None and image_tokens is not None and text_tokens is not None:
            size = tokens.shape[1]
            losses = self.decoder.losses(image_tokens[:size], text_tokens[:size], tokens[0], lengths[0])
        return Embeddings(
            image=image[0],
            text=text[0],
            scale=self.scale,
            bias=self.bias,
            image_views=tuple(image[1:]),
            text_views=tuple(text[1:]),
            reference=image[0].detach() if self.locked_image else None,
            image_features=tuple(seen),
            text_features=tuple(read),
            caption_losses=losses,
            caption_words=None if losses is None else torch.as_tensor(lengths[0] - 1),
        )

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float32[Tensor, "n d"]:
        """Embed normalised pixels."""
        return _unit(self._image_rows(images)[0])

    def embed_tokens(
        self, tokens: Int64[Tensor, "n l"], lengths: Int64[NDArray[np.int64], " n"]
    ) -> Float32[Tensor, "n d"]:
        """Embed captions; `lengths` stay on the CPU."""
        return _unit(self._token_rows(tokens, lengths)[0])

    def image_features(self, images: Float[Tensor, "n 3 h w"]) -> Float32[Tensor, "n w"]:
        """Return what the image tower knows of normalised pixels before its projection."""
        return self._image_rows(images, features=True)[0][:, self.embed_dim :].float()

    def token_features(
        self, tokens: Int64[Tensor, "n l"], lengths: Int64[NDArray[np.int64], " n"]
    ) -> Float32[Tensor, "n v"]:
        """Return what the text tower knows of captions before its projection."""
        return self._token_rows(tokens, lengths, features=True)[0][:, self.embed_dim :].float()

    def _image_views(self, images: Float[Tensor, "v n 3 h w"]) -> tuple[Tensor, Tensor | tuple[()], Tensor | None]:
        """Return embeddings, [v, n, d], features, [v, n, w], or none where nobody asks for them, and what a decoder
        reads, [v * n, k, w], where there is one."""
        rows, states = self._image_rows(images.flatten(0, 1), features=self.hands_out_features)
        return (*self._parted(rows.unflatten(0, images.shape[:2])), states)

    def _text_views(
        self, tokens: Int64[Tensor, "w n l"], lengths: Int64[NDArray[np.int64], "w n"]
    ) -> tuple[Tensor, Tensor | tuple[()], Tensor | None]:
        """Return the same of captions; where there is dropout, the first view is read without it."""
        features = self.hands_out_features
        if self._view_dropout is None or len(tokens) == 1:
            rows, states = self._token_rows(tokens.flatten(0, 1), lengths.flatten(), features=features)
        else:
            first, states = self._token_rows(tokens[0], lengths[0], features=features)
            with self._view_dropout.asked_for():
                others, _ = self._token_rows(tokens[1:].flatten(0, 1), lengths[1:].flatten(), features=features)
            rows = torch.cat([first, others])
        return (*self._parted(rows.unflatten(0, tokens.shape[:2])), states)

    def _parted(self, rows: Float[Tensor, "v n e"]) -> tuple[Tensor, Tensor | tuple[()]]:
        if not self.hands_out_features:
            return _unit(rows), ()
        return _unit(rows[..., : self.embed_dim]), rows[..., self.embed_dim :].float()

    def _image_rows(
        self, images: Float[Tensor, "n 3 h w"], *, features: bool = False
    ) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n k w"] | None]:
        """Return what the tower says of images, features behind it, and the tokens that a decoder reads."""
        tower = self.core.visual
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked_image):
            found: Any = image_and_features(tower, images) if features else tower(images)
            rows, states = (found, None) if self.decoder is None else found
            return rows, states

    def _token_rows(
        self, tokens: Int64[Tensor, "n l"], lengths: Int64[NDArray[np.int64], " n"], *, features: bool = False
    ) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n l w"] | None]:
        """Return the same of captions, and the states of their tokens."""
        tower = self.core.text
        run = partial(text_and_features, tower) if features else tower
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked_text):
            if self.decoder is not None:
                pooled, states = tower(tokens)
                return pooled, states
            if can_cut(tower):
                return embed_cut(tower, tokens, lengths, self.text_buckets, run), None
            return embed_full(run, tokens, self.context_length, self.tokenizer.pad_id), None

    @property
    def decoder(self) -> CaptionDecoder | None:
        """The decoder of captions, where the model has one."""
        return decoder_of(self.core)

    @property
    def embed_dim(self) -> int:
        """Width of the embeddings."""
        width: int = self.model_cfg["embed_dim"]
        return width

    @property
    def scale(self) -> Float32[Tensor, ""]:
        """Inverse temperature."""
        with torch.autocast(self.core.logit_scale.device.type, enabled=False):
            return self.core.logit_scale.float().exp().squeeze()

    @property
    def bias(self) -> Float32[Tensor, ""]:
        """Bias of the logits; a constant zero where the model has none."""
        if self.core.logit_bias is None:
            return torch.zeros((), device=self.core.logit_scale.device)
        return self.core.logit_bias.float().squeeze()

    @property
    def locked_image(self) -> bool:
        """Whether no parameter of the image tower trains."""
        return is_locked(self.core.visual)

    @property
    def locked_text(self) -> bool:
        """Whether no parameter of the text tower trains."""
        return is_locked(self.core.text)

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
        return [*map(str, self.loaded), *share]

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
        """The tokenizer of the text tower, loaded when first asked for.

        Raises:
            RecipeError: It cannot be loaded, or does not fit the tower.
        """
        tokenizer = tokenizer_for(self.model_cfg["text_cfg"])
        check_tokenizer(self.core.text, self.model_cfg["text_cfg"], tokenizer)
        return tokenizer

    def train(self, mode: bool = True) -> DualEncoder:
        """Switch the mode; what is locked stays in evaluation mode."""
        super().train(mode)
        rest_frozen_parts(self.core)
        return self

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Be in evaluation mode for a while: nothing is dropped, and batch norms use what they have averaged."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    @torch.no_grad()
    def clamp_(self, *beside: Tensor) -> None:
        """Keep the inverse temperature between 1 and `max_scale`; call it after each step.

        Args:
            beside: Further logarithms of it, which an optimizer moves beside the parameter.
        """
        for logarithm in (self.core.logit_scale, *beside):
            logarithm.clamp_(0.0, math.log(self.max_scale))


def _unit(features: Float[Tensor, "n d"]) -> Float32[Tensor, "n d"]:
    with torch.autocast(features.device.type, enabled=False):
        return F.normalize(features.float(), dim=-1)


def _preprocess(image_size: int | tuple[int, int], expected: dict[str, Any]) -> dict[str, Any]:
    """Return open_clip's `preprocess_cfg`, its defaults made explicit."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    size = height if height == width else (height, width)
    known: dict[str, Any] = {key: value for key, value in expected.items() if key in PREPROCESS_KEYS}
    config = PreprocessCfg(size=size, **known)
    return {**asdict(config), "mean": tuple(config.mean), "std": tuple(config.std)}
