"""All samples of a run under stable integer ids: cards in order, shards by name, samples as they stand in the tar."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from vlp.data.cards import Card
from vlp.data.faults import Fault, Reason
from vlp.data.files import OpenFiles
from vlp.data.shards import Shard
from vlp.types import RecipeError


@dataclass(frozen=True)
class Sample:
    """One sample before anything of it is read.

    Args:
        id: Number of the sample among all samples of the run.
        source: Label of the data set it comes from.
        caption_keys: Where the data set keeps its captions, with weights.
        shard: The tar it lies in.
        place: Number of the sample in its tar.
        members: Extension to offset and size.
    """

    id: int
    source: str
    caption_keys: Mapping[str, float]
    shard: Shard
    place: int
    members: dict[str, tuple[int, int]]

    def size(self, extension: str) -> int:
        """Return the bytes of a member."""
        return self.members[extension][1]

    def read(self, extension: str) -> bytes:
        """Return the content of a member.

        Raises:
            BadSampleError: The shard cannot be read any more.
        """
        return self.shard.read(*self.members[extension])


class SampleSet:
    """Random access to every sample of some data sets.

    Args:
        cards: The data sets by label; their order decides the ids.
        repeats: How often an epoch goes through a data set, where not once; each time counts as samples of its own.

    Raises:
        RecipeError: A shard is missing, or a card's `samples` is wrong.
    """

    def __init__(self, cards: Mapping[str, Card], repeats: Mapping[str, int] | None = None):
        self.cards = dict(cards)
        self.shards: list[tuple[str, Shard]] = []
        files = OpenFiles()
        for source, card in cards.items():
            shards = [Shard(path, files) for path in card.paths()]
            _check_count(card, shards)
            self.shards += [(source, shard) for shard in shards] * (repeats or {}).get(source, 1)
        self._ends = list(accumulate(len(shard) for _, shard in self.shards))
        if not len(self):
            reasons = "; ".join(f"{shard.path}: {shard.index.fault or 'no samples'}" for _, shard in self.shards[:5])
            raise RecipeError(f"data.train: not one sample in {len(self.shards)} shards ({reasons})")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Sample:
        """Return sample `number`.

        Raises:
            BadSampleError: Its members contradict each other.
        """
        source, shard, place = self._locate(number)
        return Sample(number, source, self.cards[source].captions, shard, place, shard.members(place))

    def fault(self, number: int, reason: Reason, detail: str) -> Fault:
        """Describe a bad sample for the quarantine file."""
        source, shard, place = self._locate(number)
        return Fault(source, reason, shard.path.name, shard.index.key(place), number, detail)

    def shard_faults(self) -> list[Fault]:
        """Return one fault per shard that could not be read to its end."""
        return [
            Fault(source, "shard_error", shard.path.name, "", -1, shard.index.fault)
            for source, shard in dict.fromkeys(self.shards)
            if shard.index.fault
        ]

    def _locate(self, number: int) -> tuple[str, Shard, int]:
        which = bisect_right(self._ends, number)
        source, shard = self.shards[which]
        return source, shard, number - (self._ends[which] - len(shard))


def _check_count(card: Card, shards: Sequence[Shard]) -> None:
    """Refuse a card that is wrong; broken shards explain missing samples and are counted as faults instead."""
    found = sum(map(len, shards))
    if card.samples is not None and card.samples != found and not any(shard.index.fault for shard in shards):
        raise RecipeError(
            f"card '{card.name}': samples: {card.samples} promised, {found} found in {len(shards)} shards; "
            "fetch the missing shards, or correct the card (python data/prepare/card.py CARD.yaml does it)"
        )
