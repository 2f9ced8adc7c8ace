"""Shards of JPEGs like those that people train on, made of real photographs: sets A, B and C of the loader benchmark.

The photographs are those that scikit-learn and scikit-image ship (the extra `bench`; it is needed for nothing
else). Each sample is a random crop of one of them, perhaps mirrored, at quality 95 with halved chroma, as img2dataset
writes; a caption of 13 words; and a record. Shards are kept, and made again only where they are missing.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlp.data import Card
from vlp.ground.randomness import Draws

SAMPLES_PER_SHARD = 1024
SHARDS = 2  # at least: each worker of the peer needs one of its own
COLOR = ("astronaut", "cat", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket")
GRAY = ("brick", "camera", "coins", "grass", "gravel", "moon")
# width / height
SHAPES = (4 / 3, 3 / 2, 3 / 4, 2 / 3, 1.0, 16 / 9)
# Shares of the largest crop that fits, at most 1.5 times the wanted size: smaller ones lose their texture.
ZOOM = (0.9, 1.0)
WORDS = (
    *("a", "the", "photo", "of", "an", "old", "small", "red", "wooden", "house", "dog", "woman", "street", "with"),
    *("two", "children", "near", "river", "in", "front", "mountain", "at", "night", "market", "blue", "sky", "on"),
    *("table", "plate", "fresh", "bread", "beautiful", "vintage", "bicycle", "portrait", "garden", "flowers", "stock"),
)
NUM_WORDS = 13


@dataclass(frozen=True)
class JpegSet:
    """Images of one size.

    Args:
        side: Which side has `pixels` pixels.
        samples: How many are made unless the command line says otherwise.
    """

    name: str
    side: Literal["longest", "shortest"]
    pixels: int
    samples: int

    def size(self, shape: float) -> tuple[int, int]:
        """Return width and height of an image of a given width / height."""
        small = round(self.pixels * (min(shape, 1 / shape) if self.side == "longest" else 1))
        large = round(self.pixels / (min(shape, 1 / shape) if self.side == "shortest" else 1))
        return (large, small) if shape >= 1 else (small, large)


SETS = (JpegSet("A", "longest", 512, 1024), JpegSet("B", "shortest", 256, 1024), JpegSet("C", "longest", 1024, 512))


def make(
    kind: JpegSet, samples: int, folder: Path, *, processes: int = 1, photos: list[Image.Image] | None = None
) -> Card:
    """Return the card of a set with `samples` samples under `folder`, written where it is not there yet.

    Args:
        processes: Which share the work, a shard at a time; so many shards there are at least.
        photos: What samples are cut from; those of `photographs` unless given.
    """
    place = folder / f"{kind.name}_{samples}"
    parts = np.array_split(np.arange(samples), max(SHARDS, processes, -(-samples // SAMPLES_PER_SHARD)))
    paths = [place / f"{number:05d}.tar" for number in range(len(parts))]
    if not all(path.exists() for path in paths):
        place.mkdir(parents=True, exist_ok=True)
        photos = photos or photographs()
        orders = [(path, kind, numbers.tolist(), photos) for path, numbers in zip(paths, parts, strict=True)]
        if processes == 1:
            for order in orders:
                write_shard(*order)
        else:
            with ProcessPoolExecutor(processes) as pool:
                for writing in [pool.submit(write_shard, *order) for order in orders]:
                    writing.result()
    return Card(name=f"set_{kind.name}", shards=tuple(map(str, paths)))


def write_shard(path: Path, kind: JpegSet, numbers: list[int], photos: list[Image.Image]) -> None:
    """Write one tar, beside its place until it is whole."""
    beside = path.with_suffix(".part")
    with tarfile.open(beside, "w") as tar:
        for number in numbers:
            for name, data in members(kind, number, photos):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    beside.replace(path)


def members(kind: JpegSet, number: int, photos: list[Image.Image]) -> Iterator[tuple[str, bytes]]:
    """Yield the files of one sample."""
    draws = Draws(ord(kind.name), number)
    caption = " ".join(draws.choice(WORDS) for _ in range(NUM_WORDS))
    image = cut(photos[number % len(photos)], kind.size(draws.choice(SHAPES)), draws)
    record = {"caption": caption, "width": image.width, "height": image.height, "key": f"{number:09d}"}
    yield f"{number:09d}.jpg", jpeg(image)
    yield f"{number:09d}.json", json.dumps(record).encode()
    yield f"{number:09d}.txt", caption.encode()


def cut(photo: Image.Image, size: tuple[int, int], draws: Draws) -> Image.Image:
    """Return a random part of a photograph at another size, perhaps mirrored."""
    zoom = draws.uniform(*ZOOM) * min(photo.width / size[0], photo.height / size[1], 1.5)
    width, height = (max(1, int(side * zoom)) for side in size)
    left, top = draws.integer(photo.width - width + 1), draws.integer(photo.height - height + 1)
    part = photo.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws.uniform() < 0.5 else part


def jpeg(image: Image.Image) -> bytes:
    """Encode as img2dataset does."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling="4:2:0")
    return file.getvalue()


def photographs() -> list[Image.Image]:
    """Return all photographs, in RGB."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    found: list[NDArray[np.uint8]] = [*load_sample_images().images, *(getattr(data, name)() for name in COLOR + GRAY)]
    return [Image.fromarray(pixels).convert("RGB") for pixels in found]
