"""Dual encoders that open_clip cannot build: transformers runs them, and evaluations see embeddings as of any other."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoTokenizer

from vlp.ground.types import RecipeError
from vlp.towers.before_projection import tapped
from vlp.towers.transformers_folders import CONFIG

# Trained with all texts filled to one length, which changes what the tower gives for short ones.
FILLED = ("siglip", "siglip2", "align")
USUAL_LENGTH = 64
PROBE = "a photo of a cat"
TOKENIZERS = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


class BorrowedModel:
    """A model of transformers with `get_image_features` and `get_text_features`: ALIGN, CLIPSeg, SigLIP 2, ChineseCLIP.

    Images are prepared by its own image processor and texts by its own tokenizer, as its makers say.

    Args:
        folder: What `save_pretrained` wrote.

    Raises:
        RecipeError: It is no dual encoder, a file is missing, or weights are.
    """

    def __init__(self, folder: Path):
        from transformers import AutoImageProcessor  # more than a second, which only such models are worth

        self.folder = folder
        try:
            self.config: Any = AutoConfig.from_pretrained(folder)
            self.model, found = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
            self.image_processor: Any = AutoImageProcessor.from_pretrained(folder, backend="pil")
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise RecipeError(f"'{folder}': transformers cannot load it: {error}") from error
        if not all(hasattr(self.model, f"get_{side}_features") for side in ("image", "text")):
            raise RecipeError(
                f"'{folder}': a {self.kind} of transformers is no dual encoder: it has no features of images and texts"
            )
        if not any((folder / name).is_file() for name in TOKENIZERS):  # transformers would make an empty one
            raise RecipeError(f"'{folder}': no tokenizer there ({', '.join(TOKENIZERS[:3])}); fetch the whole folder")
        known = int(getattr(getattr(self.config, "text_config", self.config), "vocab_size", 1 << 62))
        highest = max(self.tokenizer(PROBE)["input_ids"])
        if highest >= known:
            raise RecipeError(
                f"'{folder}': its tokenizer gives {highest} for '{PROBE}', and its text tower has {known} words: they "
                "do not belong together"
            )
        if missing := sorted(found["missing_keys"]):
            raise RecipeError(f"'{folder}': {len(missing)} tensors have no weights there, {missing[0]} among them")
        self.model.eval()

    @property
    def kind(self) -> str:
        """What transformers calls the architecture."""
        return str(self.config.model_type)

    @property
    def preprocess_cfg(self) -> Mapping[str, Any]:
        """How its images are prepared, in the words of transformers."""
        told: Mapping[str, Any] = json.loads(self.image_processor.to_json_string())
        return told

    @cached_property
    def embed_dim(self) -> int:
        """Width of its embeddings."""
        return self.encoder(self.model.device).embed_texts([PROBE]).shape[1]

    def tensors(self) -> Iterable[Tensor]:
        """Return all weights in an order of their own."""
        return self.model.state_dict().values()

    @property
    def length(self) -> int:
        """Tokens to which texts are cut."""
        text: Any = getattr(self.config, "text_config", self.config)
        known = [self.tokenizer.model_max_length, getattr(text, "max_position_embeddings", None)]
        return min((size for size in known if size and size < 100_000), default=USUAL_LENGTH)

    def encoder(self, device: torch.device | str, *, batch_size: int = 256) -> BorrowedEncoder:
        """Return what evaluators take."""
        self.model.to(device)
        return BorrowedEncoder(self, torch.device(device), batch_size)


class BorrowedEncoder:
    """Embed images and texts with a borrowed model, in float32."""

    has_gradients = True

    def __init__(self, model: BorrowedModel, device: torch.device, batch_size: int):
        self.model = model
        self.device = device
        self.batch_size = batch_size
        self._image_names = inspect.signature(model.model.get_image_features).parameters

    @property
    def scale(self) -> float:
        """Inverse temperature."""
        model = self.model.model
        if hasattr(model, "logit_scale"):
            return float(model.logit_scale.detach().exp())
        return 1 / float(model.temperature.detach()) if hasattr(model, "temperature") else 1.0

    def embed_images(self, images: Iterable[Image]) -> Float32[Tensor, "n d"]:
        """Embed images of any size and mode."""
        with torch.inference_mode():
            return self._collect(self._embed_images(batch) for batch in _batches(iter(images), self.batch_size))

    def image_features(self, images: Iterable[Image]) -> Float32[Tensor, "n w"]:
        """Return what the image tower knows before its projection, for images of any size and mode.

        Raises:
            RecipeError: The model has no projection of images.
        """
        with torch.inference_mode(), tapped(self.model.model, f"a {self.model.kind} of transformers") as features:
            for batch in _batches(iter(images), self.batch_size):
                self._embed_images(batch)
            return self._collect(part.float() for part in features)

    def plain_pixels(self, image: Image) -> Float32[Tensor, "3 h w"]:
        """Return the pixels of an image of any size and mode, before they are normalised.

        Raises:
            RecipeError: The model is shown no pixels in [0, 1], but patches, say.
        """
        prepared = self.model.image_processor(images=[image.convert("RGB")], return_tensors="pt", do_normalize=False)
        pixels: Tensor = prepared.get("pixel_values", torch.empty(0))
        known = [name for name in prepared if name in self._image_names]
        if known != ["pixel_values"] or pixels.ndim != 4 or not 0 <= pixels.min() <= pixels.max() <= 1:
            raise RecipeError(
                f"'{self.model.folder}': a {self.model.kind} is shown {', '.join(known) or 'nothing'}, and attacks "
                "change pixels between 0 and 1 alone"
            )
        return pixels[0]

    def embed_pixels(self, pixels: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n d"]:
        """Embed what `plain_pixels` makes of images; gradients reach the pixels that ask for them."""
        processor = self.model.image_processor
        if processor.do_normalize:
            mean, std = (pixels.new_tensor(each)[:, None, None] for each in (processor.image_mean, processor.image_std))
            pixels = (pixels - mean) / std
        return _unit(self.model.model.get_image_features(pixel_values=pixels))

    def embed_texts(self, texts: Sequence[str]) -> Float32[Tensor, "n d"]:
        """Embed texts; long ones are cut to the context."""
        with torch.inference_mode():
            return self._collect(self._embed_texts(batch) for batch in _batches(iter(texts), self.batch_size))

    def _collect(self, parts: Iterator[Tensor]) -> Float32[Tensor, "n d"]:
        found = [part.cpu() for part in parts]
        return torch.cat(found) if found else torch.empty(0, self.model.embed_dim)

    def _embed_images(self, images: list[Image]) -> Tensor:
        prepared = self.model.image_processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        known = {name: value.to(self.device) for name, value in prepared.items() if name in self._image_names}
        return _unit(self.model.model.get_image_features(**known))

    def _embed_texts(self, texts: list[str]) -> Tensor:
        fill = "max_length" if self.model.kind in FILLED else True
        tokens = self.model.tokenizer(
            texts, padding=fill, truncation=True, max_length=self.model.length, return_tensors="pt"
        )
        return _unit(self.model.model.get_text_features(**tokens.to(self.device)))


def is_borrowed(folder: Path) -> bool:
    """Whether a folder holds a model of transformers."""
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and "model_type" in told


def _unit(found: Any) -> Tensor:
    # transformers 5 gives an output with `pooler_output`, 4 the features alone
    features = found if isinstance(found, Tensor) else found.pooler_output
    return functional.normalize(features.float(), dim=-1)


def _batches(things: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(things, size)):
        yield batch
