"""The trainer's own step on a synthetic batch: all of the product except the reading of data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from vlp.data import Augment
from vlp.ground.types import Batch
from vlp.recipe.compose import load_recipe
from vlp.recipe.model import build_model
from vlp.recipe.schema import Recipe
from vlp.run import assemble
from vlp.run.assemble import Run
from vlp.towers.dual import DualEncoder

# lengths of captions in tokens: those of web pairs are about lognormal
MEAN_LENGTH, SPREAD = 17.0, 0.5
SHORTEST = 4
TRACED = "aot_eager"
DISTINCT = 256  # images; more take long to draw, and no kernel cares
TINY = (
    "model.embed_dim=32",
    "model.image={type: vit, layers: 2, width: 64, head_width: 32, patch_size: 16, image_size: 32}",
    "model.text={type: transformer, layers: 2, width: 64, heads: 2, context_length: 32}",
    "train.threads=1",
)
"""Towers for the CPU."""


def synthetic_recipe(
    name: str, folder: Path, batch_size: int, overrides: Sequence[str] = (), *, label: str = "synthetic"
) -> Recipe:
    """Return a recipe over the shipped pairs that evaluates nothing, for a run folder under `folder`."""
    return load_recipe(
        name,
        [
            "data.train={cc12m: null, embedded: {}}",
            "data.workers=0",
            "evaluation={tasks: [], every: null}",
            f"train.batch_size={batch_size}",
            "train={steps: 1_000_000, samples: null, epochs: null}",
            f"runs={folder}",
            f"name={label}",
            *overrides,
        ],
    )


def synthetic_parts(
    name: str, folder: Path, batch_size: int, device: str, overrides: Sequence[str] = (), *, label: str = "synthetic"
) -> tuple[Run, Batch]:
    """Assemble a recipe as the trainer does, and draw a batch for it; weights are drawn on the device, for speed."""

    recipe = synthetic_recipe(name, folder, batch_size, overrides, label=label)
    with drawn_on(device), compiling(device):
        parts = assemble.assemble(recipe, resume=False, allow_changes=False)
    return parts, draw_batch(parts.towers, batch_size).to(parts.device)


def compiling(device: str) -> Any:
    """Return a context in which the CPU traces what is compiled, and runs it without minutes of a C++ compiler."""
    return nullcontext() if device == "cuda" else patch.object(torch, "compile", partial(torch.compile, backend=TRACED))


@contextmanager
def drawn_on(device: str) -> Iterator[None]:
    """Let the trainer draw its first weights on the device, for speed."""

    def build(section: Any) -> DualEncoder:
        with torch.device(device):
            return build_model(section)

    with patch.object(assemble, "build_model", build):
        yield


def draw_batch(towers: DualEncoder, size: int) -> Batch:
    """Draw pixels and captions of the lengths of web pairs."""
    generator = torch.Generator().manual_seed(0)
    side = towers.image_size
    assert isinstance(side, int), "training crops are square"
    text = towers.model_cfg["text_cfg"]
    context, words = towers.caption_length, text.get("vocab_size", 49408)
    lengths = draw_lengths(size, context, generator)
    tokens = torch.randint(1, words - 2, (size, context), generator=generator)
    inside = torch.arange(context) < lengths[:, None]
    ends = torch.arange(context) == lengths[:, None] - 1
    tokens = torch.where(ends, words - 1, torch.where(inside, tokens, 0))[:, : int(lengths.max())]
    pixels = torch.randint(0, 256, (min(size, DISTINCT), side, side, 3), dtype=torch.uint8, generator=generator)
    return Batch(
        images=pixels.repeat(-(-size // len(pixels)), 1, 1, 1)[None, :size],
        tokens=tokens[None],
        lengths=lengths[None],
        draws=torch.rand(1, size, Augment.NUM_DRAWS, generator=generator),
        ids=torch.arange(size),
        caption_ids=torch.arange(size),
        sources=("synthetic",) * size,
    )


def draw_lengths(size: int, context: int, generator: torch.Generator) -> torch.Tensor:
    """Draw lengths of captions, end tokens included."""
    logarithm = math.log(MEAN_LENGTH) - SPREAD**2 / 2
    drawn = torch.randn(size, generator=generator).mul(SPREAD).add(logarithm).exp().round().long()
    return drawn.clamp(SHORTEST, context)
