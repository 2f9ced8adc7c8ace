"""What a card keeps, such as a part that `vlp data split` has made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vlp.curate.sources.columns import Columns
from vlp.curate.sources.image_paths import status_of
from vlp.curate.sources.rows import Row, Rows, sources
from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import EXTENSIONS
from vlp.data.samples import Sample, SampleSet
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError

SUFFIXES = (".yaml", ".yml")


@sources.register("card")
class CardSamples:
    """The samples that a card keeps, with the captions that it names.

    Args:
        path: The card.
        columns: A card has none.

    Raises:
        RecipeError: No card, one of documents, shards that are missing, or columns are named.
    """

    rank: ClassVar[int] = 5

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Whether it is a YAML file."""
        return path.is_file() and path.suffix.lower() in SUFFIXES

    def __init__(self, path: Path, columns: Columns):
        if any(columns.given().values()):
            raise RecipeError(f"{path}: a card says itself where captions are: leave out --columns")
        self.path = path
        self.card = load_card(str(path))
        if self.card.documents is not None:
            raise RecipeError(f"{path}: its samples are documents, and pairs are packed")
        self.caption_keys = self.captions = dict(self.card.captions)
        self.regions = self.card.regions

    def units(self, size: int) -> Iterator[Rows]:
        """Yield the samples, `size` at a time."""
        num_samples = len(_open(self.path))
        for start in range(0, num_samples, size):
            yield CardRows(self.path, start, min(start + size, num_samples))


@dataclass(frozen=True)
class CardRows:
    """The samples `start` to `stop`, read where they are needed."""

    path: Path
    start: int
    stop: int

    def __iter__(self) -> Iterator[Row]:
        samples = _open(self.path)
        for number in range(self.start, self.stop):
            try:
                yield _row(number, samples[number])
            except BadSampleError as bad:
                yield Row(number, samples.fault(number, bad.reason, bad.detail).key, fault=(bad.reason, bad.detail))

    def fingerprint(self) -> str:
        """Return a checksum of the range, of what the card keeps, and of sizes and times of shards on this machine."""
        card = load_card(str(self.path))
        files = [status_of(Path(place)) for place in card.locations()]
        return hashlib.sha256(repr((self, card.fingerprint, files)).encode(errors="surrogateescape")).hexdigest()


def _open(path: Path) -> SampleSet:
    card = load_card(str(path))
    return SampleSet({card.name: card})


def _row(number: int, sample: Sample) -> Row:
    """Return a sample as a row.

    Raises:
        BadSampleError: It has no image, or cannot be read.
    """
    kinds = {key.split(".")[0] for key in (*sample.caption_keys, sample.card.regions or "txt")}
    captions = {kind: sample.read(kind) for kind in sorted(kinds & sample.members.keys() - set(EXTENSIONS))}
    return Row(number, sample.shard.key(sample.place), data=sample.read_image(), captions=captions)
