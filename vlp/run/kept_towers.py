"""What locked towers have said, kept where it would be the same again; and whether it would."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlp.data import Augment, Captions, Crop, Stream, TextAugment
from vlp.data.kept_rows import KeptRows
from vlp.ground import dist
from vlp.ground.bits import checksum
from vlp.ground.types import Batch, Embeddings, RecipeError
from vlp.recipe.inflation import inflated
from vlp.recipe.schema import Recipe, settings
from vlp.run.kept_images import KeptImages
from vlp.run.kept_texts import CAPTIONS_AT_A_TIME, TOKENS_AT_A_TIME, KeptTexts
from vlp.strategies.base import Strategy
from vlp.strategies.stored_teacher import StoredTeacher
from vlp.towers.dual import DualEncoder


class KnownEmbeddings(NamedTuple):
    """Embeddings of a batch that its pass need not compute: the first view of images, all views of captions."""

    images: Tensor | None
    texts: Tensor | None


@dataclass
class KeptTowers:
    """What is kept of each tower, where the recipe wants it and it can be.

    Args:
        notes: What is not kept although its tower is locked, and why.
    """

    images: KeptImages | None = None
    texts: KeptTexts | None = None
    notes: list[str] = field(default_factory=list)

    def open(self, recipe: Recipe, towers: DualEncoder, data: str, say: Callable[[str], None]) -> None:
        """Make the files, or go on with them; called everywhere, once the weights are what they will stay.

        Args:
            data: What is known of the data.
            say: Prints a line.

        Raises:
            RecipeError: There is no room.
        """
        for note in self.notes:
            say(note)
        if self.images is not None:
            about = _of_images(recipe, towers, data)
            self.images.open(_place(recipe, "kept_images", about | _of_passes(recipe)), about, say)
        if self.texts is not None:
            about = _of_texts(recipe, towers)
            self.texts.open(_place(recipe, "kept_texts", about), about, say)

    def look_up(self, batch: Batch, device: torch.device) -> KnownEmbeddings:
        """Return what is known of a batch; captions that are not are embedded here."""
        images = None if self.images is None else self.images.look_up(batch, device)
        return KnownEmbeddings(images, None if self.texts is None else self.texts(batch, device))

    def complete(self, batch: Batch, embeddings: Embeddings, known: KnownEmbeddings) -> Embeddings:
        """Keep what the image tower has said."""
        if self.images is None or known.images is not None:
            return embeddings
        return self.images.complete(batch, embeddings)

    def metrics(self) -> dict[str, float]:
        """Return the share since the last call that each tower did not see."""
        return {name: share for side in self._sides() for name, share in side.metrics().items()}

    def gains(self, measured: Mapping[str, float]) -> Iterator[str]:
        """Say what keeping gains, once it is known; nothing at other times."""
        yield from filter(None, (side.gain(measured) for side in self._sides()))

    def save(self) -> None:
        """Bring what is known to the disk; called everywhere."""
        for side in self._sides():
            side.save()

    def _sides(self) -> Iterator[KeptImages | KeptTexts]:
        yield from (side for side in (self.images, self.texts) if side is not None)


def keep_towers(
    recipe: Recipe, towers: DualEncoder, used: Mapping[str, Strategy], stream: Stream, *, sharded: bool
) -> KeptTowers:
    """Return what a run keeps of its locked towers, and let its stream leave out what is not needed then.

    Raises:
        RecipeError: Nothing would be the same in another epoch; names the key.
    """
    if recipe.train.keep_locked is False:
        return KeptTowers()
    if sharded:
        raise _refused("parameters are split over processes, which run a tower together: train with DDP")
    if towers.decoder is not None:
        raise _refused("model.decoder looks at the tokens of each image and caption: leave it out")
    against_images, against_texts = _against_images(recipe, towers, used), _against_texts(recipe, towers, used)
    if against_images and against_texts:
        raise _refused(against_texts if towers.locked_text and not towers.locked_image else against_images)
    kept = KeptTowers()
    first = first_of_this_machine()
    if not against_images:
        kept.images = KeptImages(KeptRows(Path(), stream.num_samples, towers.embed_dim), begins=dist.rank() == first)
        stream.leave_out(kept.images.rows)
    elif towers.locked_image:
        kept.notes.append(f"train.keep_locked: images are embedded at each step: {against_images}")
    if not against_texts:
        kept.texts = KeptTexts(towers)
    elif towers.locked_text:
        kept.notes.append(f"train.keep_locked: captions are embedded at each step: {against_texts}")
    return kept


def first_of_this_machine() -> int:
    """Return the number of the first process that shares this one's memory; called everywhere."""
    return dist.gather_objects(dist.machine()).index(dist.machine())


def _place(recipe: Recipe, name: str, about: Mapping[str, Any]) -> Path:
    """Return where a machine's files lie, without their suffixes: in the run folder, or in one that runs share."""
    shared = recipe.train.keep_locked
    if not isinstance(shared, str):
        return recipe.folder / name / str(first_of_this_machine())
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    return Path(shared).expanduser() / name / digest / platform.node()


# ---------------------------------------- what would not be the same in another epoch
def _against_images(recipe: Recipe, towers: DualEncoder, used: Mapping[str, Strategy]) -> str:
    data = recipe.data
    if not towers.locked_image:
        return "the image tower trains: lock it (model.freeze=[visual])"
    if towers.budget is not None:
        return "model.image.max_patches gives images of several aspect ratios, of which none is kept"
    if not Crop(1, **settings(data.crop)).is_fixed:
        return "data.crop draws another part of an image in each epoch: set data.crop={scale: [1, 1], flip: 0}"
    if data.policy is not None:
        return "data.policy changes the pixels in each epoch: set data.policy=null"
    if Augment((0.0,) * 3, (1.0,) * 3, **settings(data.augment)).is_on:
        return "data.augment changes the pixels in each epoch: leave it out"
    if data.views:
        return "data.views shows further parts of each image: leave them out"
    for label, strategy in used.items():
        if strategy.reads_images:
            return f"strategies.{label} looks at the pixels of each step: leave it out"
    return ""


def _against_texts(recipe: Recipe, towers: DualEncoder, used: Mapping[str, Strategy]) -> str:
    captions = recipe.data.captions
    if not towers.locked_text:
        return "the text tower trains: lock it (model.freeze=[text])"
    if recipe.model.text_dropout:
        return "model.text_dropout drops other parts of captions at each step: set it to 0"
    for label, strategy in used.items():
        if strategy.changes_captions:
            return f"strategies.{label} changes the captions of each step: leave it out"
    if any(isinstance(strategy, StoredTeacher) and strategy.cycle for strategy in used.values()):
        return ""  # whatever is drawn for a caption comes again
    if not Captions(**settings(captions, "augment", "negatives")).is_finite:
        return "data.captions.wording draws other pieces in each epoch: leave `some` out of it"
    if TextAugment(**settings(captions.augment)).is_on:
        return "data.captions.augment words captions anew in each epoch: leave it out"
    for label, view in recipe.data.text_views.items():
        if TextAugment(**settings(view, "count")).is_on:
            return f"data.text_views.{label} words captions anew in each epoch: leave it out"
    if captions.negatives is not None:
        return "data.captions.negatives makes other captions in each epoch: set it to null"
    return ""


def _refused(why: str) -> RecipeError:
    return RecipeError(f"train.keep_locked: {why}, or set train.keep_locked=false")


# ---------------------------------------- what embeddings follow from
def _of_images(recipe: Recipe, towers: DualEncoder, data: str) -> dict[str, Any]:
    return {
        "tower": int(checksum(towers.core.visual.state_dict().values())),
        "architecture": _architecture(towers, "vision_cfg"),
        "prepared": {name: towers.preprocess_cfg[name] for name in ("size", "mean", "std")},
        "crop": inflated(recipe.data).crop.model_dump(mode="json"),
        "data": hashlib.sha256(data.encode()).hexdigest(),
        "precision": recipe.train.precision,
    }


def _architecture(towers: DualEncoder, side: str) -> str:
    """Return a checksum of what the weights of a tower are used as."""
    told = {name: towers.model_cfg.get(name) for name in (side, "quick_gelu")}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _of_texts(recipe: Recipe, towers: DualEncoder) -> dict[str, Any]:
    return {
        "tower": int(checksum(towers.core.text.state_dict().values())),
        "architecture": _architecture(towers, "text_cfg"),
        "context_length": towers.context_length,
        "blocks": [CAPTIONS_AT_A_TIME, TOKENS_AT_A_TIME],
        "precision": recipe.train.precision,
        "compile": recipe.train.compile,
        "device": towers.core.logit_scale.device.type,
    }


def _of_passes(recipe: Recipe) -> dict[str, Any]:
    """Return what the last digits of images' embeddings follow from: runs that would differ in them share none."""
    return {
        "batches": list(recipe.train.batch_sizes.sizes),
        "micro_batches": recipe.train.micro_batches,
        "processes": dist.world_size(),
        "compile": recipe.train.compile,
        "on_gpu": torch.cuda.is_available(),
    }
