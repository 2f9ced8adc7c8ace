"""Embeddings of a locked image tower, computed at first sight and kept: later epochs need neither it nor the pixels."""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.data import Augment, Crop
from vlp.data.kept_rows import KeptRows
from vlp.ground import dist
from vlp.ground.bits import checksum
from vlp.ground.types import Batch, Embeddings, RecipeError, send
from vlp.recipe.inflation import inflated
from vlp.recipe.schema import Recipe, settings
from vlp.strategies.base import Strategy
from vlp.towers.dual import DualEncoder

FOLDER = "kept_images"


class KeptImages:
    """What a locked image tower has said of each sample.

    The processes of a machine share one file; each machine has its own, and embeds at its own first sight.

    Args:
        rows: By number of the sample.
        begins: Whether this process is the one of its machine that makes files and saves them.
    """

    def __init__(self, rows: KeptRows, *, begins: bool):
        self.rows = rows
        self._begins = begins
        self._arriving: list[tuple[Any, Tensor, Any]] = []  # numbers, embeddings on their way to the CPU, when they are
        self._pairs = self._blank = 0
        self._gain = Gain()

    def open(self, about: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """Make the file, or go on with it; called everywhere, once the weights are what they will stay.

        Args:
            about: What the embeddings follow from: those of anything else are forgotten.
            say: Prints a line.

        Raises:
            RecipeError: There is no room.
        """
        with dist.together():
            if self._begins:
                self.rows.begin(json.dumps(about))
        with dist.together():
            self.rows.open()
        num_rows, num_known = self.rows.shape[0], self.rows.num_known
        so_far = f"{num_known:,} are known" if num_known else "each is computed at first sight"
        size = f"{self.rows.num_bytes / 1e9:.3g} GB"
        say(f"embeddings of {num_rows:,} images are kept in {self.rows.stem.parent} ({size}): {so_far}")

    def look_up(self, batch: Batch, device: torch.device) -> Float32[Tensor, "1 n d"] | None:
        """Return the embeddings of a batch's images, or nothing where the tower must look at them."""
        self._take_in(wait=False)
        numbers = _numbers(batch)
        self._pairs += len(batch)
        self._blank += int(_blank(batch).sum())
        if not self.rows.has(numbers).all():
            return None
        return send(torch.from_numpy(self.rows.read(numbers))[None], device)

    def complete(self, batch: Batch, embeddings: Embeddings) -> Embeddings:
        """Keep what the tower said, and put what is kept where it saw no pixels.

        A batch in which some samples have none is embedded whole: products of matrices with fewer rows may round in
        another way.
        """
        numbers, blank, image = _numbers(batch), _blank(batch), embeddings.image
        if bool(blank.any()):
            kept = torch.from_numpy(self.rows.read(numbers))
            image = torch.where(send(blank, image.device)[:, None], send(kept, image.device), image)
        self._keep(numbers, image)
        return replace(embeddings, image=image, reference=image)

    def metrics(self) -> dict[str, float]:
        """Return the share of the pairs since the last call that came without pixels."""
        share = self._blank / max(1, self._pairs)
        self._pairs = self._blank = 0
        return {"kept_images": share}

    def gain(self, measured: Mapping[str, float]) -> str:
        """Say what keeping gains, once it is known; nothing at other times."""
        return self._gain(measured["kept_images"], measured["samples_per_second"])

    def save(self) -> None:
        """Bring what is known to the disk; called everywhere."""
        with dist.together():
            self._take_in(wait=True)
        with dist.together():
            if self._begins:
                self.rows.save()

    def _keep(self, numbers: Any, image: Float32[Tensor, "n d"]) -> None:
        if image.device.type != "cuda":
            self.rows.write(numbers, image.detach().cpu().numpy())
            return
        copy = torch.empty(image.shape, dtype=image.dtype, pin_memory=True)
        copy.copy_(image.detach(), non_blocking=True)
        there = torch.cuda.Event()
        there.record()
        self._arriving.append((numbers, copy, there))

    def _take_in(self, *, wait: bool) -> None:
        """Write what has arrived; the step waits for nothing, a checkpoint for all."""
        while self._arriving and (wait or self._arriving[0][2].query()):
            numbers, copy, there = self._arriving.pop(0)
            there.synchronize()
            self.rows.write(numbers, copy.numpy())


class Gain:
    """Compares the speed while images are embedded with that afterwards."""

    def __init__(self) -> None:
        self._before: list[float] = []
        self._is_said = False

    def __call__(self, share: float, rate: float) -> str:
        """Return a sentence when the first line comes in which all images were kept."""
        if share == 0:
            self._before.append(rate)
        if share < 1 or self._is_said:
            return ""
        self._is_said = True
        if not self._before:
            return f"all images are kept: {rate:,.4g} pairs/s"
        before = statistics.median(self._before[1:] or self._before)  # the first holds what happens once
        return (
            f"all images are kept: {rate:,.4g} pairs/s, {before:,.4g} while they were embedded ({rate / before:.1f}x)"
        )


def keep_images(
    recipe: Recipe, towers: DualEncoder, used: Mapping[str, Strategy], num_samples: int, *, sharded: bool
) -> KeptImages:
    """Return where a run keeps the embeddings of its images.

    Raises:
        RecipeError: They are not the same in every epoch, or something else looks at the pixels; names the key.
    """
    if sharded:
        raise _refused("parameters are split over processes, which run the tower together", "train with DDP")
    check_same_in_every_epoch(recipe, towers, used)
    first = first_of_this_machine()
    rows = KeptRows(recipe.folder / FOLDER / str(first), num_samples, towers.embed_dim)
    return KeptImages(rows, begins=dist.rank() == first)


def first_of_this_machine() -> int:
    """Return the number of the first process that shares this one's memory; called everywhere."""
    boot = Path("/proc/sys/kernel/random/boot_id")  # tells machines of one name apart
    told = (platform.node(), boot.read_text() if boot.is_file() else "", dist.rank() // dist.local_world_size())
    return dist.gather_objects(told).index(told)


def check_same_in_every_epoch(recipe: Recipe, towers: DualEncoder, used: Mapping[str, Strategy]) -> None:
    """Refuse to keep embeddings that another epoch would not repeat.

    Raises:
        RecipeError: Names the key, and a way out.
    """
    data = recipe.data
    if towers.decoder is not None:
        raise _refused("model.decoder looks at the tokens of each image", "leave it out")
    if not towers.locked_image:
        raise _refused("the image tower trains", "lock it (model.freeze=[visual])")
    if not Crop(1, **settings(data.crop)).is_fixed:
        raise _refused(
            "data.crop draws another part of an image in each epoch", "set data.crop={scale: [1, 1], flip: 0}"
        )
    if data.policy is not None:
        raise _refused("data.policy changes the pixels in each epoch", "set data.policy=null")
    if Augment((0.0,) * 3, (1.0,) * 3, **settings(data.augment)).is_on:
        raise _refused("data.augment changes the pixels in each epoch", "leave it out")
    if data.views:
        raise _refused("data.views shows further parts of each image", "leave them out")
    for label, strategy in used.items():
        if strategy.reads_images:
            raise _refused(f"strategies.{label} looks at the pixels of each step", "leave it out")


def what_decides(recipe: Recipe, towers: DualEncoder, data: str) -> dict[str, Any]:
    """Return what embeddings of images follow from, to be compared with what they followed from at an earlier start.

    Args:
        data: What is known of the data.
    """
    return {
        "tower": int(checksum(towers.core.visual.state_dict().values())),
        "prepared": {name: towers.preprocess_cfg[name] for name in ("size", "mean", "std")},
        "crop": inflated(recipe.data).crop.model_dump(mode="json"),
        "data": hashlib.sha256(data.encode()).hexdigest(),
        "precision": recipe.train.precision,
    }


def _refused(why: str, way_out: str) -> RecipeError:
    return RecipeError(f"train.keep_locked: {why}: {way_out}, or set train.keep_locked=false")


def _numbers(batch: Batch) -> Any:
    assert batch.visits is not None, "the stream says which samples it has drawn"
    return batch.visits[:, 1].numpy()


def _blank(batch: Batch) -> Tensor:
    assert batch.blank is not None, "the stream says what it has left out"
    return batch.blank
