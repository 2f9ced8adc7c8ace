"""A trained model as evaluators see it: PIL images and strings to embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Float32
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL.Image import Image
from torch import Tensor

from vlp.towers.before_projection import tapped
from vlp.towers.caption_writer import CaptionWriter
from vlp.towers.dual import DualEncoder
from vlp.towers.writing import Writing


class TowerEncoder:
    """Embed images and texts with a dual encoder, exactly as open_clip would evaluate it.

    Args:
        device: Where the towers run; they must be there already.
        batch_size: Images or texts per forward.
        autocast: Run the towers under autocast to this type; their output is float32 in any case.
    """

    def __init__(
        self,
        model: DualEncoder,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 256,
        autocast: torch.dtype | None = None,
    ):
        self.model = model
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.autocast = autocast
        self.transform: Callable[[Image], Tensor] = image_transform_v2(
            PreprocessCfg(**model.preprocess_cfg), is_train=False
        )

    @property
    def scale(self) -> float:
        """Inverse temperature."""
        return self.model.scale.item()

    def embed_images(self, images: Iterable[Image]) -> Float32[Tensor, "n d"]:
        """Embed images of any size and mode."""
        pixels = (self.transform(image) for image in images)
        with self._evaluating():
            return self._collect(self.model.embed_images(self._move(batch)) for batch in self._batches(pixels))

    def image_features(self, images: Iterable[Image]) -> Float32[Tensor, "n w"]:
        """Return what the image tower knows before its projection, for images of any size and mode.

        Raises:
            RecipeError: The tower has no projection to look behind.
        """
        pixels = (self.transform(image) for image in images)
        with self._evaluating(), tapped(self.model.core.visual, "the image tower") as features:
            for batch in self._batches(pixels):
                self.model.embed_images(self._move(batch))
            return self._collect(part.float() for part in features)

    def embed_texts(self, texts: Sequence[str]) -> Float32[Tensor, "n d"]:
        """Embed texts; long ones are cut to the context."""
        with self._evaluating():
            parts = (self.model.tokenizer(batch) for batch in self._batches(iter(texts)))
            return self._collect(
                self.model.embed_tokens(tokens.to(self.device), sizes.numpy()) for tokens, sizes in parts
            )

    def caption_images(self, images: Iterable[Image], writing: Writing) -> list[str]:
        """Write a caption for each image, of any size and mode.

        Raises:
            RecipeError: The model has no decoder of captions, or its tokenizer no first token to start from.
        """
        writer = CaptionWriter(self.model, writing)
        pixels = (self.transform(image) for image in images)
        with self._evaluating():
            return [caption for batch in self._batches(pixels) for caption in writer(self._move(batch))]

    def _batches(self, things: Iterator) -> Iterator[list]:
        while batch := list(islice(things, self.batch_size)):
            yield batch

    def _move(self, pixels: list[Tensor]) -> Float32[Tensor, "n 3 h w"]:
        return torch.stack(pixels).to(self.device)

    def _collect(self, parts: Iterator[Tensor]) -> Float32[Tensor, "n d"]:
        found = [part.cpu() for part in parts]
        return torch.cat(found) if found else torch.empty(0, self.model.model_cfg["embed_dim"])

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None),
            ):
                yield
        finally:
            self.model.train(was_training)
