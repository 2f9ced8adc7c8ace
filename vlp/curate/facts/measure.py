"""Read every sample of a card once and keep a few numbers of each; pixels are not decoded."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlp.curate.parallel import map_in_order, progress
from vlp.data import Captions, Card, SampleSet
from vlp.data.faults import BadSampleError, net
from vlp.data.pixels.decode import FORMATS
from vlp.data.samples import Sample, UsedShard

WORD = re.compile(r"\w[\w'-]*")


@dataclass(frozen=True)
class SampleNumbers:
    """One number per usable sample.

    Args:
        ids: Place of the sample among those that the card keeps.
        image_hashes: First 64 bits of a hash of the encoded image.
        caption_hashes: The same of the caption in small letters.
        kinds: Number of the format in `FORMATS`.
        characters: Length of the caption.
        words: Words of the caption, split at spaces.
    """

    ids: NDArray[np.int64]
    image_hashes: NDArray[np.uint64]
    caption_hashes: NDArray[np.uint64]
    kinds: NDArray[np.uint8]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    bytes: NDArray[np.int64]
    characters: NDArray[np.int32]
    words: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[int, ...]]) -> SampleNumbers:
        """Return columns of rows in the order of the fields."""
        kinds = (np.int64, np.uint64, np.uint64, np.uint8, np.int32, np.int32, np.int64, np.int32, np.int32)
        columns = list(zip(*rows, strict=True)) or [()] * len(kinds)
        return cls(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))

    @classmethod
    def together(cls, parts: Sequence[SampleNumbers]) -> SampleNumbers:
        """Return the columns of several shards, one below the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Measured:
    """What one shard, or a whole card, holds.

    Args:
        samples: All samples that the card keeps, usable or not.
        vocabulary: How often each word occurs, in small letters.
        faults: Samples that were left out, by reason.
    """

    samples: int
    columns: SampleNumbers
    vocabulary: Counter[str]
    faults: Counter[str]


def measure(card: Card, workers: int) -> Measured:
    """Measure all shards of a card.

    Raises:
        RecipeError: A shard is missing.
    """
    used = SampleSet({card.name: card}).parts
    samples, parts = 0, []
    vocabulary: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    with progress(len(used), "shards") as bar:
        for measured in map_in_order(_measure_shard, [(card, part) for part in used], workers):
            measured.columns.ids[:] += samples
            samples += measured.samples
            parts.append(measured.columns)
            vocabulary.update(measured.vocabulary)
            faults.update(measured.faults)
            bar.update()
    return Measured(samples, SampleNumbers.together(parts), vocabulary, faults)


def _measure_shard(task: tuple[Card, UsedShard]) -> Measured:
    card, part = task
    shard = part.shard
    captions = Captions()
    rows: list[tuple[int, ...]] = []
    vocabulary: Counter[str] = Counter()
    faults: Counter[str] = Counter({"shard_error": 1} if shard.fault else {})
    for number in range(len(part)):
        place = part.place(number)
        try:
            sample = Sample(place, card.name, card, shard, place, shard.members(place))
            text = captions.first(sample)
            image = _measure_image(sample)
        except BadSampleError as bad:
            faults[bad.reason] += 1
            continue
        image_hash, *image_numbers = image
        rows.append((number, image_hash, hash64(text.lower().encode()), *image_numbers, len(text), len(text.split())))
        vocabulary.update(WORD.findall(text.lower()))
    return Measured(len(part), SampleNumbers.of_rows(rows), vocabulary, faults)


def _measure_image(sample: Sample) -> tuple[int, ...]:
    """Return hash, kind, width, height and bytes of an image.

    Raises:
        BadSampleError: There is none, or its header is broken.
    """
    data = sample.read_image()
    with net("corrupt_image"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return hash64(data), FORMATS.index(str(image.format)), *image.size, len(data)


def hash64(data: bytes) -> int:
    """Return the first 64 bits of a hash that is equal on every machine."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
