"""Images as prompts see them that follow from each: embeddings, styles after each block, and changed views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL.Image import Image
from torch import Tensor

from vlp.evaluators.dataset import EvaluationSet
from vlp.evaluators.probes.changed_views import MixedView, StrongView, change
from vlp.evaluators.probes.learned_prompts import Look, SeenImages, Styles
from vlp.evaluators.shared import decode_ahead
from vlp.ground.offers import offers
from vlp.ground.randomness import fold
from vlp.ground.types import Encoder, RecipeError


class StyleEncoder(Protocol):
    """A model that embeds plain pixels, without gradient, and says how each block of its image tower sees them."""

    def plain_pixels(self, image: Image) -> Float32[Tensor, "3 h w"]: ...

    def styled_pixels(self, pixels: Float32[Tensor, "n 3 h w"]) -> tuple[Float32[Tensor, "n d"], Styles]: ...


class Eye:
    """Looks at images as a model does, and says what its blocks make of them.

    Args:
        encoder: The model.
        device: Where it runs.

    Raises:
        RecipeError: The model does not say what its blocks make of images.
    """

    def __init__(self, encoder: Encoder, device: torch.device):
        if not offers(encoder, StyleEncoder):
            raise RecipeError(
                f"a {type(encoder).__name__} does not say what the blocks of its image tower make of an image, which "
                "prompts of gopro_prompts follow from; coop_prompts need no such thing"
            )
        self.encoder: StyleEncoder = encoder
        self.device = device

    def read(self, data: EvaluationSet, places: Sequence[int]) -> Iterator[Float32[Tensor, "3 h w"]]:
        """Yield images of a set as pixels in [0, 1], prepared as for evaluation."""
        order = range(len(places))
        return decode_ahead(lambda number: self.encoder.plain_pixels(data.decode(places[number])[0]), order)

    def see(self, pixels: Float32[Tensor, "n 3 h w"]) -> SeenImages:
        """Return the embeddings of images and their styles.

        Raises:
            RecipeError: The image tower has no blocks.
        """
        rows, styles = self.encoder.styled_pixels(pixels)
        if not styles:
            raise RecipeError("the image tower has no blocks that prompts could follow from: use coop_prompts")
        return SeenImages(rows, styles)

    def look(self, pixels: UInt8[Tensor, "n 3 h w"], names: Sequence[int], seed: Sequence[int], *, mixed: bool) -> Look:
        """Return what shows changed views of images, drawn anew for each epoch.

        Args:
            names: A number for each image, which its changes are drawn by.
            mixed: Whether there is a view by AugMix behind the strongly changed one.
        """
        height, width = pixels.shape[2:]
        policies = (StrongView((height, width)), MixedView((height, width)))[: 1 + mixed]
        images = pixels.numpy()

        def look(epoch: int, places: Int64[Tensor, " k"]) -> tuple[SeenImages, ...]:
            views = []
            for kind, policy in enumerate(policies):
                keys = [fold(*seed, epoch, names[place], kind) for place in places.tolist()]
                changed = [change(images[each], policy, key) for each, key in zip(places.tolist(), keys, strict=True)]
                view = torch.from_numpy(np.stack(changed)).to(self.device)
                views.append(self.see(view.float() / 255))
            return tuple(views)

        return look
