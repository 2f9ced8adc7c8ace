"""Samples of evaluation sets: where each image lies, and what the bytes beside it say."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlp.data.faults import BadSampleError
from vlp.data.regions import Region
from vlp.data.shards.index import Entry
from vlp.data.shards.shard import Shard
from vlp.ground.types import RecipeError

IMAGES = ("webp", "png", "jpg", "jpeg")


@dataclass(frozen=True)
class EvaluationSample:
    """Where one image lies, and what stands beside it.

    Args:
        labels: Bytes by extension: class, captions, vectors.
        regions: Captions of parts of the image, where a card tells of them.
    """

    key: str
    shard: Shard
    image: Entry
    labels: Mapping[str, bytes]
    regions: tuple[Region, ...] = ()

    def image_bytes(self) -> bytes:
        """Read the encoded image.

        Raises:
            BadSampleError: It cannot be read any more.
        """
        return self.shard.read(self.image)

    @property
    def where(self) -> str:
        """Path or address of its tar."""
        return self.shard.location


def read_samples(shard: Shard, wanted: Sequence[str]) -> Iterable[EvaluationSample]:
    """Yield the samples of one tar in its order; members of other kinds are never read.

    Args:
        wanted: Extensions of what must stand beside each image.

    Raises:
        RecipeError: The tar cannot be read, or a sample lacks its image or what must stand beside it.
    """
    for place in range(len(shard)):
        key = shard.key(place)
        try:
            members = shard.members(place)
            images = [name for name in IMAGES if name in members]
            missing = [name for name in wanted if name not in members]
            if not images and missing == list(wanted):
                continue
            if len(images) != 1 or missing:
                what = "two images" if len(images) > 1 else f"no .{missing[0]}" if images else "no image"
                raise RecipeError(f"{shard.location}: sample '{key}' has {what}")
            labels = {name: shard.read(members[name]) for name in wanted}
        except BadSampleError as error:
            raise RecipeError(f"{shard.location}: sample '{key}': {error}") from error
        yield EvaluationSample(key, shard, members[images[0]], labels)


def label_of(sample: EvaluationSample) -> int:
    """Return the class of a sample.

    Raises:
        RecipeError: It is no whole number.
    """
    try:
        return int(sample.labels["cls"])
    except ValueError as error:
        raise RecipeError(f"{sample.where}: class of sample '{sample.key}' is {sample.labels['cls'][:20]!r}") from error


def captions_of(sample: EvaluationSample) -> tuple[str, ...]:
    """Return the captions of a sample, one per line, or those of its regions where it has no others.

    Raises:
        RecipeError: One is blank, or they are not UTF-8.
    """
    if "txt" not in sample.labels:
        return tuple(region.caption for region in sample.regions)
    try:
        captions = tuple(sample.labels["txt"].decode("utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise RecipeError(f"{sample.where}: captions of sample '{sample.key}' are not UTF-8") from error
    if not captions or not all(caption.strip() for caption in captions):
        raise RecipeError(f"{sample.where}: sample '{sample.key}' has a blank caption")
    return captions


def label_matrix_of(samples: list[EvaluationSample]) -> np.ndarray:
    """Return the classes of samples as zeros and ones, a row each.

    Raises:
        RecipeError: A vector does not load, is as long as no other, or holds something else, such as shares.
    """
    rows = [_vector(sample) for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        if len(row) != len(rows[0]) or not np.isin(row, (0, 1)).all():
            raise RecipeError(f"{sample.where}: labels of sample '{sample.key}' are not {len(rows[0])} zeros and ones")
    return np.stack(rows).astype(np.int8)


def groups_of(samples: list[EvaluationSample], names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return a number per sample for each name.

    Raises:
        RecipeError: A vector does not load, or has another length.
    """
    rows = [_vector(sample) for sample in samples] if names else []
    for sample, row in zip(samples, rows, strict=False):
        if len(row) != len(names) or not np.issubdtype(row.dtype, np.integer):
            raise RecipeError(
                f"{sample.where}: sample '{sample.key}' has {len(row)} numbers of type {row.dtype}, and data.groups "
                f"names {len(names)} columns of integers"
            )
    return {name: np.array([row[column] for row in rows], dtype=np.int64) for column, name in enumerate(names)}


def _vector(sample: EvaluationSample) -> np.ndarray:
    try:
        return np.load(io.BytesIO(sample.labels["npy"]), allow_pickle=False).reshape(-1)
    except (ValueError, EOFError) as error:
        raise RecipeError(f"{sample.where}: numbers of sample '{sample.key}' do not load: {error}") from error
