"""All samples of a run under stable integer ids: cards in order, shards by name, samples as they stand in the tar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vlp.data.faults import BadSampleError, Fault, Reason
from vlp.data.order.shuffle import Order
from vlp.data.pixels.decode import EXTENSIONS, MOST_BYTES, check_bytes
from vlp.data.shards.cards import Card
from vlp.data.shards.index import Entry
from vlp.data.shards.kept import read_kept
from vlp.data.shards.open_files import OpenFiles
from vlp.data.shards.prefetch import Needed
from vlp.data.shards.shard import Shard, open_shards
from vlp.ground.types import RecipeError

Source = TypeVar("Source")


@dataclass(frozen=True)
class Sample:
    """One sample before anything of it is read.

    Args:
        id: Number of the sample among all samples of the run.
        source: Label of the data set it comes from.
        card: The data set.
        shard: The tar it lies in.
        place: Number of the sample in its tar.
        members: By extension.
    """

    id: int
    source: str
    card: Card
    shard: Shard
    place: int
    members: dict[str, Entry]

    @classmethod
    def of_card(cls, card: Card, shard: Shard, place: int) -> Sample:
        """Return a sample of one card by itself; its place in its tar is its id.

        Raises:
            BadSampleError: Its members contradict each other.
        """
        return cls(place, card.name, card, shard, place, shard.members(place))

    @property
    def caption_keys(self) -> Mapping[str, float]:
        """Where the data set keeps its captions, with weights."""
        self._check_pair()
        return self.card.captions

    def image_member(self) -> str:
        """Return the extension of the image: the first that the card names and the sample has.

        Raises:
            BadSampleError: There is none; says why that may be.
            RecipeError: Samples of the data set are no pairs.
        """
        self._check_pair()
        found = next((name for name in self.card.images if name in self.members), None)
        if found is None:
            raise BadSampleError("missing_image", _no_image(self.card.images, tuple(self.members)))
        return found

    def read_image(self, max_bytes: int = MOST_BYTES) -> bytes:
        """Return the encoded image.

        Raises:
            BadSampleError: There is none, it is larger than this, or as `Shard.read`.
        """
        return self.read_bounded(self.image_member(), max_bytes)

    def read_bounded(self, extension: str, max_bytes: int = MOST_BYTES) -> bytes:
        """Return the content of a member that is an encoded image.

        Raises:
            BadSampleError: It is larger than this, or as `Shard.read`.
        """
        check_bytes(self.size(extension), max_bytes)
        return self.read(extension)

    def size(self, extension: str) -> int:
        """Return the bytes of a member."""
        return self.members[extension].size

    def read(self, extension: str) -> bytes:
        """Return the content of a member.

        Raises:
            BadSampleError: As `Shard.read`.
        """
        return self.shard.read(self.members[extension])

    def _check_pair(self) -> None:
        if self.card.documents is not None:
            raise RecipeError(
                f"card '{self.card.name}': documents: its samples are texts among images, and this reads pairs; train "
                "on them with data.documents={}, check them with vlp data verify"
            )


@dataclass(frozen=True, eq=False)
class UsedShard:
    """What is used of one shard.

    Args:
        source: Label of the data set.
        shard: The tar.
        places: Numbers of the kept samples in the tar, ascending; None keeps all.
    """

    source: str
    shard: Shard
    places: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.shard) if self.places is None else len(self.places)

    def place(self, number: int) -> int:
        """Return where the used sample `number` stands in the tar."""
        return number if self.places is None else int(self.places[number])


class SampleSet:
    """Random access to every sample of some data sets.

    Args:
        cards: The data sets by label; their order decides the ids.
        repeats: How often an epoch goes through a data set, where not once; each time counts as samples of its own.

    Raises:
        RecipeError: A shard is missing, a card's `samples` is wrong, or its `keep` does not fit.
    """

    def __init__(self, cards: Mapping[str, Card], repeats: Mapping[str, int] | None = None):
        self.cards = dict(cards)
        self.repeats = dict(repeats or {})
        self.parts: list[UsedShard] = []
        self.places: dict[str, slice] = {}  # of the parts of each data set
        files = OpenFiles()
        for source, card in cards.items():
            shards = open_shards(card, files)
            _check_count(card, shards)
            parts = _parts(source, card, shards) * self.repeats.get(source, 1)
            self.places[source] = slice(len(self.parts), len(self.parts) + len(parts))
            self.parts += parts
        self.sizes: NDArray[np.int64] = np.array([len(part) for part in self.parts], dtype=np.int64)
        self._ends = np.cumsum(self.sizes)
        self._shifts = self._ends - self._ends[_firsts(self.parts)]
        if not len(self):
            reasons = "; ".join(f"{part.shard.location}: {part.shard.fault or 'no samples'}" for part in self.parts[:5])
            raise RecipeError(f"data.train: not one sample in {len(self.parts)} shards ({reasons})")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number: int) -> Sample:
        """Return sample `number`.

        Raises:
            BadSampleError: Its members contradict each other.
        """
        part, place = self._locate(number)
        members = part.shard.members(place)
        return Sample(number, part.source, self.cards[part.source], part.shard, place, members)

    def fault(self, number: int, reason: Reason, detail: str) -> Fault:
        """Describe a bad sample for the quarantine file."""
        part, place = self._locate(number)
        return Fault(part.source, reason, part.shard.name, part.shard.key(place), number, detail)

    def shard_faults(self) -> list[Fault]:
        """Return one fault per shard that could not be read to its end, with the samples that it lost."""
        return [
            Fault(part.source, "shard_error", part.shard.name, "", -1, part.shard.fault, self._lost(part))
            for part in dict.fromkeys(self.parts)
            if part.shard.fault
        ]

    def retries(self) -> Counter[tuple[str, str]]:
        """Return how often fetching a shard failed, by data set and trouble."""
        stats = {source: self.parts[places][0].shard.stats for source, places in self.places.items()}
        return Counter({(source, trouble): n for source, found in stats.items() for trouble, n in found.counts.items()})

    @property
    def num_distinct(self) -> int:
        """Samples that are none over again."""
        return int(self.sizes[self._shifts == 0].sum())

    @property
    def has_repeats(self) -> bool:
        """Whether samples come over again in an epoch."""
        return self.num_distinct < len(self)

    def originals(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the id under which each sample counts first: one for all repetitions of a set, or of its shards."""
        return ids - self._shifts[np.searchsorted(self._ends, ids, side="right")]

    def shares(self, ids: NDArray[np.int64]) -> dict[str, float]:
        """Return the share that each data set has among some samples."""
        counts = np.bincount(np.searchsorted(self._ends, ids, side="right"), minlength=len(self.parts))
        return {source: float(counts[places].sum()) / max(len(ids), 1) for source, places in self.places.items()}

    def shards_ahead(self, order: Order, position: int) -> Iterator[Needed]:
        """Yield what a run reads from a position on, and when, in the order of use."""
        for first, end, number in order.shards_from(position):
            yield Needed(first, end, self.parts[number].shard)

    def _lost(self, part: UsedShard) -> int:
        """Return how many samples a broken shard lacks.

        Judged by what its card promises, else by what sound shards hold, and by the bytes that nobody understands.
        """
        shards = {each.shard.location: each.shard for each in self.parts[self.places[part.source]]}.values()
        promised, found = self.cards[part.source].samples, sum(map(len, shards))
        sound = [len(shard) for shard in shards if not shard.fault]
        typical = sum(sound) // max(1, len(sound))
        guesses = {shard.location: max(shard.lost, typical - len(shard)) for shard in shards if shard.fault}
        guess = guesses[part.shard.location]
        if promised is None:
            return guess
        return max(1, round(guess * (promised - found) / sum(guesses.values())))

    def _locate(self, number: int) -> tuple[UsedShard, int]:
        which = int(np.searchsorted(self._ends, number, side="right"))
        part = self.parts[which]
        return part, part.place(number - int(self._ends[which] - self.sizes[which]))


def only_source(sources: Mapping[str, Source], has_repeats: bool, why: str) -> Source:
    """Return the one source of a run.

    Args:
        sources: By label.
        has_repeats: Whether samples come over again.
        why: The key of the recipe, and what can be done in one card alone.

    Raises:
        RecipeError: There are several, or samples come over again.
    """
    if len(sources) > 1 or has_repeats:
        raise RecipeError(f"{why}: leave one source in data.train, without a repeat")
    (source,) = sources.values()
    return source


def _no_image(wanted: Sequence[str], members: Sequence[str]) -> str:
    """Say what a sample has instead of an image."""
    said = f"none of {', '.join(wanted)} among {', '.join(members)}"
    alike = [name for name in members if name.split(".")[-1] in (*EXTENSIONS, "img", "image")]
    if not alike:
        return said
    dotted = [name for name in alike if "." in name]
    why = " (the first dot of a name ends the key)" if dotted else ""
    return f"{said}{why}; where that is the image, write `images: [{alike[0]}]` into the card"


def _parts(source: str, card: Card, shards: Sequence[Shard]) -> list[UsedShard]:
    """Return what a card uses of its shards."""
    if card.keep is None:
        return [UsedShard(source, shard) for shard in shards]
    ends = np.cumsum([len(shard) for shard in shards])
    kept = read_kept(card.folder / card.keep, int(ends[-1]))
    starts = ends - [len(shard) for shard in shards]
    pieces = np.split(kept, np.searchsorted(kept, ends[:-1]))
    return [
        UsedShard(source, shard, (piece - start).astype(np.int32))
        for shard, piece, start in zip(shards, pieces, starts, strict=True)
    ]


def _firsts(parts: Sequence[UsedShard]) -> NDArray[np.int64]:
    """Return for each part the number of the first that holds the same samples."""
    known: dict[tuple[str, bytes | None], int] = {}
    names = [(part.shard.location, None if part.places is None else part.places.tobytes()) for part in parts]
    return np.array([known.setdefault(name, number) for number, name in enumerate(names)], dtype=np.int64)


def _check_count(card: Card, shards: Sequence[Shard]) -> None:
    """Refuse a card that is wrong; broken shards explain missing samples and are counted as faults instead."""
    found = sum(map(len, shards))
    if card.samples is not None and card.samples != found and not any(shard.fault for shard in shards):
        raise RecipeError(
            f"card '{card.name}': samples: {card.samples} promised, {found} found in {len(shards)} shards; "
            "fetch the missing shards, or correct the card (python data/prepare/card.py CARD.yaml does it)"
        )
