"""What a model said of the views of some epochs, by epoch and sample: written in parts, read at random."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray

from vlp.ground import files
from vlp.ground.types import RecipeError

VIEWS = "views.json"
JOINING = "joining"  # an empty file: all parts were there
COMPLETE = "complete.json"
PARTS_AT_A_TIME = 64
Sides = tuple[Float32[NDArray[np.float32], "n d"], Float32[NDArray[np.float32], "n d"]]
Numbers = Literal["float16", "float32"]


class StoredViews:
    """A complete folder of views, for reading.

    Args:
        folder: What `vlp embed --views` wrote.

    Attributes:
        num_epochs: Epochs whose views are stored, from the first on.
        width: Of the embeddings; `kind` is their type.
        model: The teacher; `checksum` is that of its weights.
        decides: What the views follow from, by key of the recipe.

    Raises:
        RecipeError: It is none, or not complete.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / VIEWS).is_file():
            raise RecipeError(
                f"{folder}: there are no stored views; vlp embed MODEL CARD --views N --recipe RECIPE --to {folder}"
            )
        if not (folder / COMPLETE).is_file():
            raise RecipeError(f"{folder}: not all views are there yet; run vlp embed again to go on")
        try:
            self.manifest: dict[str, Any] = json.loads((folder / VIEWS).read_text(encoding="utf-8"))
            self.num_epochs, self.width = int(self.manifest["epochs"]), int(self.manifest["width"])
            self.checksum, self.kind = int(self.manifest["checksum"]), str(self.manifest["type"])
            self.model, self.decides = str(self.manifest["model"]), dict(self.manifest["decides"])
            self._epochs = [_read_arrays(folder, epoch, self.manifest["samples"]) for epoch in range(self.num_epochs)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                f"{folder}: cannot be read ({type(error).__name__}: {error}): embed the views again, to another folder"
            ) from error

    def read(self, visits: Int64[NDArray[np.int64], "n 2"]) -> Sides:
        """Return the embeddings of images and texts, as they were written.

        Args:
            visits: Epoch and number of each sample.

        Raises:
            RecipeError: One is not stored.
        """
        found = tuple(np.empty((len(visits), self.width), dtype=np.float32) for _ in range(2))
        for epoch in np.unique(visits[:, 0]).tolist():
            here = visits[:, 0] == epoch
            numbers = visits[here, 1]
            images, texts, present = self._epochs[epoch]
            if not present[numbers].all():
                missing = int(numbers[~present[numbers]][0])
                raise RecipeError(
                    f"{self.folder}: nothing is stored of sample {missing} in epoch {epoch}: it could not be read when "
                    "the views were embedded; embed them again, to another folder"
                )
            for rows, stored in zip(found, (images, texts), strict=True):
                rows[here] = stored[numbers]
        return found[0], found[1]


def part_path(folder: Path, number: int, rank: int, world_size: int) -> Path:
    """Return the file of what one process wrote of a stretch of batches."""
    return folder / f"part-{number:06d}-{rank}-of-{world_size}.npz"


def write_part_of_views(
    path: Path,
    visits: Int64[NDArray[np.int64], "n 2"],
    images: Float32[NDArray[np.float32], "n d"],
    texts: Float32[NDArray[np.float32], "n d"],
    kind: Numbers,
) -> None:
    """Write what one process embedded of a stretch of batches."""
    with files.write_whole(path) as file:
        np.savez(file, visits=visits, images=images.astype(kind), texts=texts.astype(kind))


def first_missing(folder: Path, num_parts: int) -> int:
    """Return the first stretch of which not all processes of a start have written their part, or how many there are."""
    if (folder / JOINING).is_file():
        return num_parts
    found: dict[tuple[int, int], int] = {}
    for path in folder.glob("part-*-*-of-*.npz"):
        _, number, _, _, world_size = path.stem.split("-")
        key = int(number), int(world_size)
        found[key] = found.get(key, 0) + 1
    done = {number for (number, world_size), count in found.items() if count == world_size}
    return next((number for number in range(num_parts) if number not in done), num_parts)


def join_parts(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Make one array of each epoch and side, remove the parts, and return how many views there are.

    Goes on where it was stopped; nothing is left to do the next time.
    """
    files.write_text(folder / JOINING, "")
    shape = int(manifest["samples"]), int(manifest["width"])
    arrays = [_open_arrays(folder, epoch, shape, manifest["type"]) for epoch in range(manifest["epochs"])]
    paths = sorted(folder.glob("part-*-*-of-*.npz"))
    for start in range(0, len(paths), PARTS_AT_A_TIME):
        for path in paths[start : start + PARTS_AT_A_TIME]:
            with np.load(path) as part:
                _put(arrays, part["visits"], part["images"], part["texts"])
        for each in (array for epoch in arrays for array in epoch):
            each.flush()  # before the parts go: rows lie all over the arrays, so this is no cheap step
        for path in paths[start : start + PARTS_AT_A_TIME]:
            path.unlink()
    views = sum(int(np.count_nonzero(present)) for _, _, present in arrays)
    files.write_text(folder / COMPLETE, json.dumps({"views": views}) + "\n")
    return views


def _put(arrays: list[tuple[Any, Any, Any]], visits: Any, images: Any, texts: Any) -> None:
    for epoch, (all_images, all_texts, present) in enumerate(arrays):
        here = visits[:, 0] == epoch
        numbers = visits[here, 1]
        all_images[numbers], all_texts[numbers], present[numbers] = images[here], texts[here], True


def _open_arrays(folder: Path, epoch: int, shape: tuple[int, int], kind: Numbers) -> tuple[Any, Any, Any]:
    images, texts, present = _paths(folder, epoch)
    wanted = ((images, shape, kind), (texts, shape, kind), (present, shape[:1], "bool"))
    opened = []
    for path, size, dtype in wanted:
        if not path.is_file():  # whole at once: a half of one would look like an array
            fresh = files.beside(path)
            np.lib.format.open_memmap(fresh, mode="w+", dtype=np.dtype(dtype), shape=size).flush()
            fresh.replace(path)
        opened.append(np.lib.format.open_memmap(path, mode="r+"))
    return opened[0], opened[1], opened[2]


def _read_arrays(folder: Path, epoch: int, samples: int) -> tuple[Any, Any, Any]:
    images, texts, present = (np.load(path, mmap_mode="r") for path in _paths(folder, epoch))
    if not len(images) == len(texts) == len(present) == samples:
        raise ValueError(f"epoch {epoch} has not {samples} samples")
    return images, texts, present


def _paths(folder: Path, epoch: int) -> Iterator[Path]:
    return (folder / f"epoch-{epoch:05d}.{name}.npy" for name in ("images", "texts", "present"))
