"""The dual encoder: pixels and tokens in, unit-norm float32 embeddings out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
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
from vlp.towers.base import Tower
from vlp.towers.build import build_core, join, set_grad_checkpointing
from vlp.towers.depth import blocks_behind, names_in_blocks
from vlp.towers.freeze import freeze as freeze_parameters
from vlp.towers.freeze import freeze_batch_norm, is_locked, rest_frozen_parts
from vlp.towers.meaning import PREPROCESS_KEYS
from vlp.towers.sources import find_sources, trained_with
from vlp.towers.text import can_cut, embed_cut, embed_full
from vlp.towers.tokenizer_fit import check_tokenizer
from vlp.towers.tokenizers import PaddingTokenizer, tokenizer_for
from vlp.towers.tuning.base import Tuning
from vlp.towers.weights import load_weights

Color = tuple[float, float, float]


class DualEncoder(nn.Module):
    """An image tower and a text tower that share one embedding space.

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
    """

    def __init__(
        self,
        image_tower: Tower,
        text_tower: Tower,
        tuning: Tuning | None = None,
        *,
        embed_dim: int | None = None,
        init_scale: float = 14.2857,
        max_scale: float = 100.0,
        learn_scale: bool = True,
        init_bias: float | None = None,
        freeze: tuple[str, ...] = (),
        lock_batch_norm: bool = False,
        grad_checkpointing: bool = False,
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
        self.model_cfg = join(image, text, embed_dim, init_bias, trained_with(sources))
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
        image = known if known is not None else self.embed_images(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        text = self.embed_tokens(tokens.flatten(0, 1), lengths.flatten()).unflatten(0, tokens.shape[:2])
        return Embeddings(
            image=image[0],
            text=text[0],
            scale=self.scale,
            bias=self.bias,
            image_views=tuple(image[1:]),
            text_views=tuple(text[1:]),
            reference=image[0].detach() if self.locked_image else None,
            tokens=tokens[0],
            lengths=torch.as_tensor(lengths[0]),
        )

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float32[Tensor, "n d"]:
        """Embed normalised pixels."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked_image):
            return _unit(self.core.visual(images))

    def embed_tokens(
        self, tokens: Int64[Tensor, "n l"], lengths: Int64[NDArray[np.int64], " n"]
    ) -> Float32[Tensor, "n d"]:
        """Embed captions; `lengths` stay on the CPU."""
        tower = self.core.text
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked_text):
            if can_cut(tower):
                return _unit(embed_cut(tower, tokens, lengths, self.text_buckets))
            return _unit(embed_full(tower, tokens, self.context_length, self.tokenizer.pad_id))

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
        return {"core.visual.": self.core.visual, "core.text.": self.core.text}

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
