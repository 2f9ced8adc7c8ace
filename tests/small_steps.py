"""Any shipped recipe with towers of seconds: its parts as `assemble` makes them, and batches out of nothing."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.narrow import narrow
from tests.teachers import with_tiny_teachers
from tests.towers.native import NATIVE
from vlp.data.pixels.augment import NUM_DRAWS
from vlp.ground.interleaved import Interleaved
from vlp.ground.region_rows import RegionRows
from vlp.ground.types import Batch
from vlp.recipe.compose import load_recipe
from vlp.recipe.schema import Recipe
from vlp.run import assemble
from vlp.run.assemble import Run
from vlp.towers import dual

Settings = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml") if path.stem != "base")
NUM_SAMPLES, LONGEST, WORDS = 100_000, 12, 1_000
IMAGE: Settings = {"type": "vit", "layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
TEXT: Settings = {
    "type": "transformer",
    "layers": 1,
    "width": 8,
    "heads": 1,
    "context_length": 16,
    "vocab_size": WORDS + 1,
}
GATED: Settings = {"type": "gated", "every": 1}
PLAIN_STEPS = ("train.micro_batches=1", "train.keep_locked=false", "train.threads=1")  # nothing to measure or thin out
PLAIN = {"embed_dim": 16, "weights": None}


def small_recipe(
    name: str, *overrides: str, image: Settings = IMAGE, text: Settings = TEXT, buckets: int | str = 2
) -> Recipe:
    """Return a shipped recipe with other, small towers.

    Args:
        buckets: Groups of captions.
    """
    whole = load_recipe(name, overrides)
    used = {entry.type for entry in whole.strategies.values()}
    if "unmasked_end" in used:  # needs something to unmask
        image = {**image, "patch_dropout": 0.5}
    if getattr(whole.model.image, "max_patches", None) is not None:
        image = {**NATIVE, "proj": "linear", "max_patches": whole.model.image.max_patches}
    documents = whole.data.documents
    if "sequence_lengths" in used:  # names more patches than two by two
        image = {**image, "image_size": 224}
    towers: Settings = {"image": image, "text": text}
    if whole.model.decoder is not None and whole.model.decoder.type == "locating":
        towers |= {"decoder": {**whole.model.decoder.model_dump(), "width": 16, "layers": 1, "heads": 2}}
    elif whole.model.decoder is not None:  # it reads the patches, and is as wide as they are
        towers |= {
            "text": {**text, "pool": "cls", "width": image["width"], "heads": image["width"] // image["head_width"]},
            "decoder": {"layers": 1, "heads": 2} | ({"type": "transformer"} if documents is None else GATED),
        }
    if whole.model.tune is not None and whole.model.tune.type == "purifier":
        towers |= {"tune": {"type": "purifier", "width": 4}}
    model = whole.model.model_validate(whole.model.model_dump() | PLAIN | {"text_buckets": buckets} | towers)
    terms = {
        label: entry.model_copy(update={"widths": (4, 8, 12)[: len(entry.widths)]} | narrow(entry))
        for label, entry in whole.objective.items()
    }
    heads = {label: entry.model_copy(update=narrow(entry)) for label, entry in whole.heads.items()}
    return with_tiny_teachers(whole.model_copy(update={"model": model, "objective": terms, "heads": heads}))


def small_parts(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, accelerator: object | None = None) -> Run:
    """Assemble a recipe without data and without a run folder.

    Args:
        accelerator: Replaces that of this machine.
    """
    stream = SimpleNamespace(num_samples=NUM_SAMPLES, epoch_size=NUM_SAMPLES, samples=None)
    monkeypatch.setattr(assemble, "check_ready", lambda _: None)  # their evaluation sets are not here
    monkeypatch.setattr(assemble, "build_stream", lambda *_: stream)
    monkeypatch.setattr(assemble, "claim_folder", lambda *_, **__: None)
    monkeypatch.setattr(dual, "check_tokenizer", lambda *_: None)  # batches have the few words of the towers
    if accelerator is not None:
        monkeypatch.setattr(assemble, "_start_processes", lambda _: accelerator)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="train.precision")  # of CPUs that are slow at it
        warnings.filterwarnings("ignore", message="model.freeze")  # small towers have no weights
        return assemble.assemble(recipe, resume=False, allow_changes=False)


def batch_for(recipe: Recipe, size: int, seed: int = 0, words: int = WORDS) -> Batch:
    """Return random pairs with as many views as the recipe's data would have, or documents of as many images.

    Args:
        words: Tokens of the vocabulary but the first, which fills; the last ends a caption.
    """
    generator = torch.Generator().manual_seed(seed)
    made = recipe.data.captions.negatives
    num_negatives = 0 if made is None else made.count
    documents = recipe.data.documents
    images = 1 + sum(view.count for view in recipe.data.views.values()) if documents is None else documents.images
    texts = 1 + sum(view.count for view in recipe.data.text_views.values()) + num_negatives
    side = recipe.model.image.image_size or 160  # what timm's test models take
    lengths = torch.randint(5, LONGEST + 1, (texts, size), generator=generator)
    lengths[:, 0] = LONGEST
    tokens = torch.randint(1, words, (texts, size, LONGEST), generator=generator)
    tokens.scatter_(2, lengths[:, :, None] - 1, words)  # the end token, which the towers pool at
    most = getattr(recipe.model.image, "max_patches", None)  # of 8 x 8 pixels, packed one below the other
    height, width = (side, side) if most is None else (8 * most, 8)
    boxes = torch.tensor([8.0, 8.0, 90.0, 60.0, 0.0]) + torch.arange(images)[:, None, None]
    ids = torch.randperm(NUM_SAMPLES, generator=generator)[:size]
    return Batch(
        images=torch.randint(0, 256, (images, size, height, width, 3), dtype=torch.uint8, generator=generator),
        tokens=tokens.where(torch.arange(LONGEST) < lengths[:, :, None], 0),
        lengths=lengths,
        draws=torch.rand(images, size, NUM_DRAWS, generator=generator),
        ids=ids,
        caption_ids=ids,
        sources=("made",) * size,
        num_negatives=num_negatives,
        cuts=boxes.expand(images, size, 5),
        captions=tuple(f"a photo of number {number}" for number in ids.tolist()),
        regions=None if recipe.data.regions is None else regions_for(size, words),
        interleaved=None if documents is None else interleaved_for(lengths[0].numpy(), images),
        grids=None if most is None else torch.randint(1, math.isqrt(most) + 1, (images, size, 2), generator=generator),
    )


def regions_for(size: int, words: int) -> RegionRows:
    """Return a region of each image but the last, the captions of which grow longer."""
    lengths = 3 + np.arange(size) % 4
    lengths[-1] = 0
    tokens = 1 + np.arange(size * 6).reshape(size, 6) % words
    boxes = np.array([0.1, 0.2, 0.5, 0.9], dtype=np.float32) + np.arange(size, dtype=np.float32)[:, None] / size / 10
    return RegionRows(boxes, np.where(np.arange(6) < lengths[:, None], tokens, 0), lengths)


def interleaved_for(lengths: Any, images: int) -> Interleaved:
    """Return which image each token of documents of one to all images looks at: an equal share at each."""
    counts, places = 1 + np.arange(len(lengths)) % images, np.arange(LONGEST)
    seen = 1 + places * counts[:, None] // lengths[:, None]
    return Interleaved(counts, np.where(places < lengths[:, None], seen, 0), images)
