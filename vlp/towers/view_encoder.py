"""What another model says of the views that a training shows its own: the same pixels, the same captions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from PIL.Image import Image, fromarray
from torch import Tensor

from vlp.ground.coordinates import first_coordinates
from vlp.ground.types import RecipeError, send
from vlp.towers.dual import DualEncoder
from vlp.towers.load import AnyModel, load_any_model, split_width, tensors_of
from vlp.towers.plain_pixels import normalised, plain

FILTERS = ("bicubic", "bilinear")


class ViewEncoder:
    """Embed views that were prepared for one model with another one, which has its own size, colours and tokenizer.

    Towers see the pixels as they are on the device, after all augmentation. A model that transformers or onnxruntime
    runs prepares them itself, as pictures, on the CPU.

    Args:
        name: As `load_any_model` takes it, or `NAME@WIDTH` for the first coordinates of the embeddings.

    Raises:
        RecipeError: No such model, it has no weights, or fewer coordinates.
    """

    def __init__(self, name: str):
        source, self.width = split_width(name)
        self.name = name
        self.model: AnyModel = load_any_model(source)
        whole = self.model.embed_dim
        if self.width is not None and not 0 < self.width <= whole:
            raise RecipeError(f"'{name}': the model's embeddings have {whole} coordinates")
        self.embed_dim = whole if self.width is None else self.width
        self._place = torch.device("cpu")
        if isinstance(self.model, DualEncoder):
            self.model.eval().requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Move the model to where it is to compute."""
        self._place = device
        if isinstance(self.model, DualEncoder):
            self.model.to(device)

    def tensors(self) -> Iterable[Tensor]:
        """Return all weights in an order of their own, and what tells one width from another."""
        return tensors_of(self.model, self.width)

    @torch.no_grad()
    def embed_images(self, images: Float32[Tensor, "n 3 h w"], prepared: Mapping[str, Any]) -> Float32[Tensor, "n d"]:
        """Embed normalised pixels.

        Args:
            prepared: open_clip's description of how they were normalised.
        """
        if isinstance(self.model, DualEncoder):
            return self._cut(self.model.embed_images(prepare(images, prepared, self.model.preprocess_cfg)))
        found = self.model.encoder(self._place, batch_size=len(images)).embed_images(pictures(images, prepared))
        return self._cut(found)

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> Float32[Tensor, "n d"]:
        """Embed captions with the model's own tokenizer; long ones are cut to its context."""
        if isinstance(self.model, DualEncoder):
            tokens, lengths = self.model.tokenizer(captions)
            return self._cut(self.model.embed_tokens(send(tokens, self._place), lengths.numpy()))
        return self._cut(self.model.encoder(self._place, batch_size=len(captions)).embed_texts(captions))

    def _cut(self, rows: Tensor) -> Float32[Tensor, "n d"]:
        whole = rows.clone().to(self._place)  # what comes of inference mode has no place in a training
        return whole if self.width is None else first_coordinates(whole, self.width)


def prepare(
    images: Float32[Tensor, "n 3 h w"], theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> Float32[Tensor, "n 3 height width"]:
    """Return pixels that were normalised for one model as another expects them; the same where both expect the same.

    A view of another size is resized whole: it was cropped already.

    Args:
        theirs: open_clip's description of how they were normalised.
        ours: The same of the model that is to see them.
    """
    size = ours["size"]
    height, width = (size, size) if isinstance(size, int) else size
    colors = [(tuple(each["mean"]), tuple(each["std"])) for each in (theirs, ours)]
    if images.shape[-2:] == (height, width) and colors[0] == colors[1]:
        return images
    pixels = plain(images, theirs)
    if pixels.shape[-2:] != (height, width):
        mode = ours["interpolation"] if ours["interpolation"] in FILTERS else FILTERS[0]
        pixels = F.interpolate(pixels, (height, width), mode=mode, antialias=True).clamp(0, 1)
    return normalised(pixels, ours)


def pictures(images: Float32[Tensor, "n 3 h w"], prepared: Mapping[str, Any]) -> list[Image]:
    """Return normalised pixels as pictures."""
    rows = (plain(images, prepared) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()
    return [fromarray(row) for row in rows.numpy()]
