"""A batch without content, of the shapes that a recipe's stream hands on."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import unset_fake_temporarily

from vlp.data.pixels.augment import NUM_DRAWS
from vlp.ground.interleaved import Interleaved
from vlp.ground.region_rows import RegionRows
from vlp.ground.types import Batch
from vlp.recipe.schema import Recipe
from vlp.towers.dual import DualEncoder


def pretend_batch(towers: DualEncoder, size: int, recipe: Recipe, length: int) -> Batch:
    """Return a batch as the stream hands it on; its documents have all images that they may have."""
    data = recipe.data
    wrong = data.captions.negatives.count if data.captions.negatives else 0
    documents = images_of(recipe)
    images, texts = (1 + sum(view.count for view in views.values()) for views in (data.views, data.text_views))
    images = documents or images
    _, height, width = pixel_shape(towers)
    with unset_fake_temporarily():
        lengths = torch.full((texts + wrong, size), length)  # towers read them on the CPU
        visits = torch.zeros(size, 2, dtype=torch.int64)
        cuts = torch.zeros(images, size, 5)
    return Batch(
        images=torch.empty(images, size, height, width, 3, dtype=torch.uint8),
        tokens=torch.zeros(texts + wrong, size, length, dtype=torch.int64),
        lengths=lengths,
        draws=torch.empty(images, size, NUM_DRAWS),
        ids=torch.arange(size),
        caption_ids=torch.arange(size),
        sources=("none",) * size,
        num_negatives=wrong,
        captions=(" ".join("a" * (length - 2)),) * size,  # a word is a token, and two more stand around them
        visits=visits,
        cuts=cuts,
        interleaved=pretend_documents(documents, lengths[0].numpy()),
        regions=pretend_regions(recipe, size, length),
    )


def images_of(recipe: Recipe) -> int:
    """Return how many images a document has; 0 where a recipe reads pairs."""
    return 0 if recipe.data.documents is None else int(recipe.data.documents.images)


def pretend_documents(images: int, lengths: Int64[NDArray[np.int64], " n"]) -> Interleaved | None:
    """Return documents of so many images whose tokens all look at the first; None for pairs."""
    if not images:
        return None
    seen = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    return Interleaved(np.full(len(lengths), images), seen, images)


def pretend_regions(recipe: Recipe, size: int, length: int) -> RegionRows | None:
    """Return regions with captions of so many tokens; None where a recipe reads none."""
    if recipe.data.regions is None:
        return None
    boxes = np.tile(np.array([0.0, 0.0, 1.0, 1.0], dtype=np.float32), (size, 1))
    return RegionRows(boxes, np.zeros((size, length), dtype=np.int64), np.full(size, length))


def pixel_shape(towers: DualEncoder) -> tuple[int, int, int]:
    """Return colours, height and width of what the image tower reads."""
    side = towers.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return 3, height, width
